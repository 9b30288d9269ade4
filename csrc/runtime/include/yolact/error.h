#pragma once

#include <stdexcept>

#include <yolact/export.h>

namespace yolact {

/// What this library throws; the message is one line that says what was wrong with what.
class YOLACT_API Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace yolact
