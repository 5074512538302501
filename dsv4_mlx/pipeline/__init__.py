"""A model in two parts on two machines: the first layers on rank 1, the last ones and the head on
rank 0, which draws the tokens.

Headers and token ids travel on a control socket, where a worker sleeps; arrays travel by
`mx.distributed`. `split` says who has which layers, `part` is what one rank loads, `worker` the
loop of rank 1, `piped` the model that rank 0's engine runs, and `piped_caches` what its sessions
do with timelines whose state lies on both ranks.

    group = mx.distributed.init(strict=True, backend="ring")     # MLX_RANK, MLX_HOSTFILE
    part, tokenizer = load(folder, pipeline=group)
    if group.rank() == 0:
        session = Engine(PipelineModel(part, group, control)).session()
    else:
        work(part, group, control)

`control` is what both ranks opened before: see `control.Control`.
"""
