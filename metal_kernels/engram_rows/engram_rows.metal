// The rows of Engram's tables for the N-grams that end at each token. One thread hashes for one row.
// Integers have 64 bits and nothing overflows: an id times its multiplier stays below 2^63.

// body
// tokens [B, S], history [B, H], token_map [V], multipliers [H + 1], primes [R] -> rows [B, S, R] and
// the last tokens of history and tokens together, last [B, H]
uint S = tokens_shape[1], H = history_shape[1], R = primes_shape[0];
size_t index = thread_position_in_grid.x;
if (index < size_t(tokens_shape[0]) * S * R) {
  uint r = index % R, t = index / R % S;
  size_t b = index / R / S;
  uint reach = r / (R / H) + 1;  // tokens before this one
  bool seen = true;
  long mixed = 0;
  for (uint back = 0; back <= reach; back++) {
    uint at = t + H - back;
    long token = at < H ? long(history[b * H + at]) : long(tokens[b * S + at - H]);
    seen = seen && token >= 0 && token < long(token_map_shape[0]);
    mixed ^= long(token_map[seen ? size_t(token) : size_t(pad_token_id)]) * long(multipliers[back]);
  }
  long first = 0;
  for (uint table = 0; table < r; table++) first += long(primes[table]);
  rows[index] = int(mixed % long(primes[r]) + first);
  if (t == 0 && r < H) {
    uint at = S + r;
    last[b * H + r] = at < H ? int(history[b * H + at]) : int(tokens[b * S + at - H]);
  }
}
