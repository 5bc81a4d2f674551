"""What integers cost in signal to noise: tensor by tensor, and ranked by layer and operation."""
