// The embedding's rows as residual streams. One thread reads one number and writes it N times.

// body
// tokens [B, S], table [V, D] -> embedded [B, S, N, D]
size_t token = threadgroup_position_in_grid.x;
uint width = table_shape[1];
uint column = threadgroup_position_in_grid.y * threads_per_threadgroup.x +
              thread_position_in_threadgroup.x;
if (column < width) {
  long id = long(tokens[token]);
  bool known = id >= 0 && id < long(table_shape[0]);
  float number = known ? float(table[size_t(id) * width + column]) : NAN;
  for (uint stream = 0; stream < STREAMS; ++stream) {
    embedded[(token * STREAMS + stream) * width + column] = number;
  }
}
