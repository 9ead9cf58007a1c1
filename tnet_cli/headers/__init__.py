"""What files and compressed data say of themselves in their headers, before anything is decoded."""
