"""Options of the smallest run, for `repre pretrain quickstart`."""

TINY = (
    "--encoder.patch-size=8",
    "--encoder.model-args.embed-dim=32",
    "--encoder.model-args.depth=2",
    "--encoder.model-args.num-heads=2",
    "--framework.hidden-dim=16",
    "--framework.out-dim=8",
    "--decoder.dim=8",
    "--views.size=32",
    "--batch-size=8",
    "--epochs=1",
    "--runtime.workers=0",
    "--runtime.device=cpu",
    "--runtime.monitor-samples=8",
)
