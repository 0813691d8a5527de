"""What brings images to the training loop: resident on the device, or streamed by workers."""
