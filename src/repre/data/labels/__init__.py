"""Labels of every kind: classes, masks, boxes, and splits of them."""
