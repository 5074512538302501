"""Texts that Metal refuses and so must the host, with the line."""

from tests.metalhost.tests.planted import Case, run


def refused(name: str, line: int | None, lines: str, header: str = "") -> Case:
    return run(name, "compile", line, lines, header=header)


# fmt: off
REFUSED = [
    refused("a device pointer becomes a threadgroup pointer", 4, "threadgroup float* p = out;"),
    refused("a pointer without address space", 5, """
float x = 1;
float* p = &x; out[i] = *p;
"""),
    refused("a reference without address space", None,
        "float x = 1; set(x); out[i] = x;", "void set(float& x) { x = 2; }"),
    refused("a threadgroup pointer for a function that takes a device pointer", 4,
        "out[i] = first(b);", "float first(device float* p) { return p[0]; }"),
    refused("a small input is constant, not device", 4, "const device float* p = a_small;"),
    refused("threadgroup memory in a nested scope", 4, "{ threadgroup float z[4]; z[0] = 1; }"),
    refused("threadgroup memory in a helper", None,
        "out[i] = f();", "float f() { threadgroup float z[4]; return z[0]; }"),
    refused("float becomes bfloat by itself", 4, "bfloat x = a[i]; out[i] = x;"),
    refused("a sum in bfloat takes a float", 5, """
bfloat x = bfloat(1);
x += a[i]; out[i] = x;
"""),
    refused("a function returns float as bfloat", None,
        "out[i] = f(a[i]);", "bfloat f(float x) { return x; }"),
    refused("an input is assigned", 4, "a[i] = 1;"),
    refused("max of int and uint", 4, "out[i] = max(int(i), i);"),
    refused("a static local", 4, "static int n = 0; out[i] = n;"),
    refused("a program-scope variable outside constant", None, "out[i] = n;", "int n = 3;"),
    refused("double", 4, "double x = 1; out[i] = x;"),
    refused("an unknown function", 4, "out[i] = squash(a[i]);"),
    refused("an unknown type", 4, "bool4 m; out[i] = 0;"),
    refused("more than 32 KB of threadgroup memory", None,
        "threadgroup float z[8192]; z[i] = 0; b[i] = z[i]; c[i] = b[i]; out[i] = c[i];"),
    refused("a variable that is never set", 5, """
float x;
out[i] = x;
"""),
    refused("a constant index outside an array", 5, """
float x[2] = {0, 1};
out[i] = x[2];
"""),
    refused("a function without its return", None,
        "out[i] = f(a[i]);", "float f(float x) { if (x > 0) return 1; }"),
    refused("an array whose length is known at run time only", 4, "float x[i]; out[i] = x[0];"),
    refused("a function pointer", None,
        "out[i] = f(a[i]);", "float f(float x) { float (*g)(float) = &sqrt; return g(x); }"),
    refused("new", 4, "auto p = new float[3]; out[i] = p[0];"),
    refused("a virtual method", None, "out[i] = 0;", "struct S { virtual void f() {} };"),
    refused("simd_and of floats", 4, "out[i] = simd_and(a[i]);"),
    *[refused(f"{name} of {kind}s", 4, f"out[i] = {name}({kind}(a[i]));")
      for name in ("simd_sum", "simd_product", "simd_min", "simd_max", "simd_and", "simd_or",
                   "simd_xor", "simd_prefix_inclusive_sum", "simd_prefix_exclusive_product")
      for kind in ("long", "ulong", "size_t", "bool")],
    refused("simd_max of vectors of longs", 4, "out[i] = simd_max(long2(1)).x;"),
    refused("simd_shuffle_xor of longs", 4, "out[i] = simd_shuffle_xor(long(i), 1);"),
    refused("Metal's own simd_shuffle of longs", 4, "out[i] = metal::simd_shuffle(long(i), 1);"),
    refused("simd_broadcast of bools", 4, "out[i] = simd_broadcast(i > 3, 1);"),
    refused("simd_shuffle of a struct", 4,
        "Pair p; p.x = p.y = i; out[i] = simd_shuffle(p, 1).x;", "struct Pair { float x, y; };"),
    refused("log1p is MLX's and not Metal's", 4, "out[i] = metal::log1p(a[i]);"),
    refused("hypot is MLX's and not Metal's", 4, "out[i] = metal::hypot(a[i], a[i]);"),
    refused("precise log1p", 4, "out[i] = precise::log1p(a[i]);"),
    refused("erf", 4, "out[i] = erf(a[i]);"),
    refused("expm1", 4, "out[i] = expm1(a[i]);"),
    *[refused(f"{call} of bfloats is a float", 5, f"""
bfloat x = bfloat(a[i]);
bfloat y = {call}; out[i] = y;
""") for call in ("clamp(x, x, x)", "sign(x)", "saturate(x)", "mix(x, x, x)", "step(x, x)",
                  "copysign(x, x)", "smoothstep(x, x, x)", "precise::clamp(x, x, x)")],
    refused("exp of a vector of bfloats", 5, """
bfloat4 x = bfloat4(1);
out[i] = float(exp(x).y);
"""),
]
# fmt: on
