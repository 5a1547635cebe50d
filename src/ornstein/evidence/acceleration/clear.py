TRIAL = ("radius=0", "radius=2.1,warmup=1", ("dit", "unet"))
FOREIGN = ("DiTTransformer2DModel", "PixArtTransformer2DModel", "UNet2DModel", "UNet2DConditionModel")
