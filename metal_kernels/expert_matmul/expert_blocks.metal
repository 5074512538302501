// The blocks of rows that have one expert, found by one threadgroup.

// body
// experts [R] ascending -> table [blocks, 3]: expert, first row and rows of a block; no rows in those
// that are left. EXPERTS matrices, blocks of at most BLOCK rows.
threadgroup int starts[EXPERTS + 1];
uint thread_index = thread_position_in_threadgroup.x, threads = threads_per_threadgroup.x;
int count = experts_shape[0];

for (uint expert = thread_index; expert <= uint(EXPERTS); expert += threads) {
  int low = 0, high = count;  // the first row whose expert is no smaller
  while (low < high) {
    int middle = (low + high) / 2;
    if (uint(experts[middle]) < expert) low = middle + 1;
    else high = middle;
  }
  starts[expert] = expert == uint(EXPERTS) ? count : low;
}
threadgroup_barrier(mem_flags::mem_threadgroup);

for (uint expert = thread_index; expert <= uint(EXPERTS); expert += threads) {
  int place = 0;  // blocks of all experts before
  for (uint i = 0; i < expert; i++) place += (starts[i + 1] - starts[i] + BLOCK - 1) / BLOCK;
  if (expert < uint(EXPERTS)) {
    int stop = starts[expert + 1];
    for (int first = starts[expert]; first < stop; first += BLOCK, place++) {
      table[3 * place] = int(expert);
      table[3 * place + 1] = first;
      table[3 * place + 2] = min(int(BLOCK), stop - first);
    }
  } else {
    for (; place < blocks; place++) {
      table[3 * place] = 0;
      table[3 * place + 1] = 0;
      table[3 * place + 2] = 0;
    }
  }
}
