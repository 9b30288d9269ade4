/// Instance segmentation with YOLACT: includes all headers of the SDK.
#pragma once

#include <yolact/coco.h>
#include <yolact/detections.h>
#include <yolact/draw.h>
#include <yolact/error.h>
#include <yolact/files.h>
#include <yolact/image.h>
#include <yolact/segmenter.h>
