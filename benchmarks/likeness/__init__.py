"""``python -m benchmarks.likeness``: how much a reference shows in pictures of your own WebUI, and what it costs.

It sends requests to a WebUI that runs with ``--api``, with your references, prompts, checkpoint and adapter: each
reference, prompt and seed plain, and at each weight. Same seeds with and without, so all differences are paired. It
writes a table (Markdown and CSV), a plot and a contact sheet. What is made is kept: the same command again makes only
what is missing.

    python -m benchmarks.likeness --webui http://127.0.0.1:7860 --references FOLDER --prompts FILE \\
        --clip clip-vit-large-patch14.safetensors --adapter ip-adapter_sd15

Prompts stand one a line, each for every reference; ``cat.png<tab>a cat on a sofa`` is for that reference alone.

The two measures are those of the IP-Adapter paper (arXiv 2308.06721, section 4: CLIP ViT-L/14, four pictures for each
image prompt, DDIM, 50 steps, guidance 7.5; there the image prompts are COCO val2017's with their captions):

CLIP-I  the cosine of CLIP's image embeddings of the picture and of the reference (of each the shorter side scaled to
        the encoder's input, bicubic, the centre cut out).
CLIP-T  CLIPScore (arXiv 2104.08718), 2.5 times the cosine of CLIP's embeddings of the picture and of the prompt, 0
        where that is negative. CLIPScore puts "A photo depicts" before the caption (on ViT-B/32), the paper does not
        say whether it does; here nothing stands before the prompt. What is in it for the WebUI alone (<lora:…>,
        brackets, weights) is left out, and so is what a text tower of 77 tokens does not take.

The paper's pictures have the image prompt alone and an empty text; their captions serve CLIP-T only: that is
``--image-alone``. Its own figures are means over 20,000 pictures, so compare with them only on its data.

Intervals are 95 % bootstrap intervals of the mean (of time: of the median), references drawn with replacement, all
pictures of a reference together; with one reference, over its pictures. Time is the whole request as the client sees
it, over the plain one beside it; the order within a reference, prompt and seed is shuffled.
"""
