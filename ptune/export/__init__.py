"""Export: writes a bundle for onnxruntime from a trained run or a pretrained model."""
