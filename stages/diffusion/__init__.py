"""Text to images: captions, the small latent diffusion model that is trained here, and sampling from any pipeline."""
