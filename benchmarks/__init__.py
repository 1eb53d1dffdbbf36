"""What is measured: the quality and the speed of the matcher and of the whole job."""
