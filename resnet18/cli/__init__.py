"""The program: its commands, options and error messages. Kept light, for it is imported before anything heavy."""

COMMANDS = {
    "fit": "train, into a directory of its own under runs/; with --ckpt_path, resume a run",
    "validate": "score a checkpoint on the validation images",
    "test": "score a checkpoint on the test images",
    "predict": "write a checkpoint's predictions for the test images, or for --images, as a table",
    "check": "look for mistakes before training: data, loss at the start, overfit one batch",
    "bench": "measure a configuration on this machine: the feed, the bare loop and the Trainer side by side",
    "runs": "list the runs of an experiment: what differs, state, best and test scores",
    "report": "write a page on a run, or on several side by side, to open in any browser",
    "seeds": "train a configuration with several seeds: mean, interval, and a paired test against others",
    "sweep": "try the values of a W&B sweep file here, without an account",
    "export": "write a run's network as an ONNX, torch or safetensors file, with a model card",
    "dashboard": "push a W&B workspace: sections and panels for the runs of a project",
}
# Lightning's own, with their modules here; the others are modules of resnet18.commands.
LIGHTNINGS_OWN = {"fit": "fitting", "validate": "program", "test": "program", "predict": "predicting"}
LIGHT = ("runs", "report", "seeds", "sweep", "export", "dashboard")  # nothing heavy is imported for their options
