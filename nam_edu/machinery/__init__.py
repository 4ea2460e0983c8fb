"""What no lesson teaches: archives, pickles, run folders, fast kernels, the doctor, AI Studio."""
