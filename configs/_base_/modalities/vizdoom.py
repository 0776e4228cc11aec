# The data set of tools/dataset_converters/vizdoom.py: RGB and depth.
#
# The depth file holds the steps of the engine's depth buffer. The converter measures
# on the floor that a step is 7.165 map units and step 0 lies at 14.35, and refuses to
# go on if it is not so; with the convention of 32 map units to the metre that is the
# scale and the offset below (also in calibration.json). Stored 0 is no measurement: sky
# and whatever is further than 57 m. `fill` puts it at that far end.
modalities = dict(
    rgb=dict(
        channels=3,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        order='rgb',
    ),
    depth=dict(
        channels=1,
        mean=[7.8],
        std=[7.7],
        dtype='uint8',
        scale=0.22390625,
        offset=0.4484375,
        unit='m',
        invalid=0,
        fill=57.5,
    ),
)
