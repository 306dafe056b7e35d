"""What sits inside models: masks on the input, saliency maps, named outputs."""
