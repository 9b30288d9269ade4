#pragma once

#define YOLACT_API __attribute__((visibility("default")))
