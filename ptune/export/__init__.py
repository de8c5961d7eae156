"""From a trained run, or a pretrained model, to a bundle that serves on onnxruntime."""
