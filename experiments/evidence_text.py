"""What docs/evidence.md says beside the results: how to read it, definitions, and notes on the tables."""

INTRODUCTION = """# Evidence

RePre's defaults against the same framework without the reconstruction branch: points, [95 % interval] (pairs of runs).
"""
CAPTION = """*Filled: mean and 95 % interval of three or more pairs of runs. Hollow: one or two seeds, too few to conclude.
In parentheses: the preset, or the recipe.*
"""
CLAIMS = """## Claims

*Reached* or *missed*: the whole 95 % interval is on that side of the goal; otherwise *open*, as always with one seed.
The goal of “above” is more than 0. “By the mean”: the interval contains the goal, but the mean decides, as fixed
beforehand.
"""
DETAILS = "## Definitions and all numbers\n"
DEFINITIONS = """- **Data.** FashionScenes has articles of Fashion-MNIST, in random colors, on photographs. StampScenes has
  photographic cut-outs of 13 classes on photographs. `experiments/build_scenes.py` composes both from Debian packages
  that are pinned by version and SHA-256. Training and test images share no object, no near-duplicate and no
  photograph. The drawn scenes are embedded in `repre`. CamVid (street frames, 11 classes) and CIFAR-10 are read from
  your own copies: `--real FOLDER`. On CamVid, pre-training sees the frames for training and validation without labels;
  heads learn on training frames and are tested on test frames.
- **Fixed before it was run.** First: RePre's defaults against the plain framework on
  FashionScenes, for MoCo v3 with a ViT and for MoBY with a Swin, each with five pairs of runs. Both runs of a pair
  share initial weights, data order, views and heads. Its seeds are used nowhere else. Its scenes with masks are new,
  but they use the articles and photographs of the exploratory scenes. The images for pre-training, k-NN and linear
  are the same as in the exploratory tables. Second: the same on CamVid for MoCo v3 with a ViT, linear mIoU with all
  and with 36 masks, five pairs at seeds 20 to 24, which no other table has. `experiments/plan.py` and
  `experiments/real_plan.py` fix the two; they were committed before their runs. The means decide in the first, as fixed
  beforehand; the whole interval decides in the second, as everywhere else.
- **Exploratory.** Everything else. There is no correction for the number of comparisons, and the defaults were chosen
  from the tables of the preset `cpu`. Pilots at seed 100, which are in no table, set the sizes of the presets
  for two cores. One of them was a pair on CamVid (linear mIoU 20.7 without and 22.9 with the branch); after it, the
  training of the linear head was halved.
- **Metrics** are in percent, on test images that no training used. *Linear mIoU*: a 1x1 convolution on frozen feature
  maps of all levels; mean IoU of the classes. *Patch k-NN*: classes of the nearest labeled patches. *UPerNet* and *AP*
  (Mask R-CNN, COCO's metric): encoder
  and head are trained together. *Object*: the ten classes are merged into one; object mIoU is the mean of the IoU of
  object and background, and predicting only background scores about 38. *k-NN* and *linear* use images with one
  object. *Gradient ratio*: norm of the branch's gradient over that of the contrastive loss, the largest at three
  depths of the encoder, on 64 images, with the initial and the final model.
- **Earlier settings.** The results of the preset `cpu` were measured on raw feature maps; evaluations now read them
  after the encoder's final norm. They are also older than today's mIoU, in which a class that is only predicted no
  longer counts as 0. Both runs of a pair were measured in the same way, but values are not comparable between presets.
- **Differences** are in percentage points, at equal seeds, with the 95 % interval of Student's t over seeds, folds, or
  pairs of framework and encoder. If the interval
  contains 0, the table says "no difference". A difference in parentheses has too few seeds for an interval. † marks
  differences with a pair that was measured on two machines: rounding alone can make the same seed end differently
  ([how far apart](results.md#checks-of-the-evaluations)).
- **To reproduce:** `python -m experiments.run --preset cpu --download`, or `--preset real-cpu --real FOLDER`, then
  `python -m experiments.tables`, which writes this page, its pictures, and the numbers that other pages quote, from the
  files in `experiments/results/`. Run the same command again to resume. Useful options: `--only confirmatory`,
  `--hours 2`, `--preset gpu`. Encoders are not stored
  with the results: if a result is missing, the encoder is trained again, and if another processor gives it other
  weights, all results of that encoder are measured again.
"""
WHY_FOREGROUND = (
    " (chosen before the confirmatory runs, after a pilot in which linear mIoU was that of predicting only background)"
)
NOTES = {
    "1": "RePre's recipes without changes: the branch has weight 1 with DINO and weight 10 with the other frameworks. The "
    "plain framework with the training time of the branch is compared with the branch; above 0 the longer plain training is "
    "better.",
    "2": "Each row changes one setting of the defaults (weight 10, the clean crop as target, four levels, convolutional "
    "decoder, L1, both views, no mask); the last two rows change two.",
    "3": "Each method against RePre; above 0 the other method is better. All self-supervised methods see equally many "
    "images, and the supervised one equally many views. The cost of a step differs between methods. Where patches are "
    "masked, in this table and table 2, they get the mean color, not SimMIM's learned token.",
    "5": "Against the plain framework: the branch with its first defaults (weight 1, augmented view as target), with its "
    "current defaults, and with settings that the monitors' gradient ratio suggests.",
    "stamps": "Some classes have three or four test objects in a fold: on one fold, differences below 5 points are noise.",
    "camvid-confirmatory": "Fixed in `experiments/real_plan.py` before any of its runs: linear mIoU with all and with 36 "
    "masks, five pairs of seeds. Other numbers of masks were measured along with these and are exploratory.",
    "target-confirmatory": "Fixed in `experiments/real_plan.py` before any of its runs, after short runs at three seeds had "
    'favored the patch-normalized target (table "Which branch does no harm?"). Each row is compared with the one above it. '
    "On CamVid, plain and clean pixels are the runs of the comparison above.",
    "camvid": "Every encoder is compared with random init, and the branch with its framework. *Supervised* is trained from "
    "random init, with a linear head, on the same masks that evaluate it.",
    "harm": "Each setting of the branch against the plain framework on the same data.",
    "ends": "UPerNet and encoder are trained together. For each encoder and number of masks, learning rate, layer decay and "
    "length are chosen on a fifth of the labeled images; all encoders have the same candidates "
    "(`experiments/fair_ends.py`). At seed 0 every encoder chose the largest rate, and all chose the longer training except "
    "DINO with 10 masks; 17 of 30 choices had layer-wise rates, 1 of 3 of random init. Short trainings at one small rate, "
    "such as those end to end of the preset `cpu`, therefore show how fast training begins, not how good it gets. The norm "
    "of the pre-trained blocks is 8 to 28 % above that of random init and does not order the results.",
    "cifar10": "Every encoder is compared with random init, and the branch with its framework.",
}
"""Table -> text below its title."""
