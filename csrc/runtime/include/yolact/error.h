#pragma once

#include <stdexcept>

#include <yolact/export.h>

namespace yolact {

/// The exception that this library throws. The message is one line that names the file or value and says what is wrong.
class YOLACT_API Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace yolact
