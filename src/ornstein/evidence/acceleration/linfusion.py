TRIAL = ("share=0", "share=1,warmup=1", ("dit", "unet"))
FOREIGN = ("DiTTransformer2DModel", "PixArtTransformer2DModel", "UNet2DModel", "UNet2DConditionModel")
