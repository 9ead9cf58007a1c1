"""tnet: classify gigapixel images by reading only the regions that look informative."""
