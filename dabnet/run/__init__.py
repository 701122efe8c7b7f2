"""``dabnet-run``: an artifact on images, videos, cameras and streams.

``sources`` and ``video`` give frames, ``segmenter`` their masks, ``drawing`` the overlays, which
``outputs`` and ``window`` take; ``pipeline`` lets all of them work at the same time.
"""

OVERLAY, INDICES, LABEL_IDS = WRITTEN = ("overlay", "indices", "label-ids")
"""What is written: classes over the frame, class indices, or the ids of Cityscapes."""
