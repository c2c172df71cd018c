"""A synthetic stand-in for fetal heart ultrasound: videos without labels, and planes of five classes."""
