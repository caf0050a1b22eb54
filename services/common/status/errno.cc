#include "services/common/status/errno.h"

#include <errno.h>
#include <string.h>

#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "services/common/types/view.h"

namespace intermezzo {
namespace {

constexpr absl::string_view kErrnoPayload = "intermezzo.errno";

// Where no system call said what went wrong. An application that gets EIO believes the disk
// broken, and one that gets EROFS believes the mount read-only: neither is given for a state that
// passes. EAGAIN is not given either: a blocking call must not return it.
int ErrnoFromCode(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kCancelled:
      return EINTR;
    case absl::StatusCode::kInvalidArgument:
      return EINVAL;
    case absl::StatusCode::kDeadlineExceeded:
      return ETIMEDOUT;
    case absl::StatusCode::kNotFound:
      return ENOENT;
    case absl::StatusCode::kAlreadyExists:
      return EEXIST;
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return EACCES;
    case absl::StatusCode::kResourceExhausted:
      return ENOSPC;
    case absl::StatusCode::kFailedPrecondition:
      return EBUSY;
    case absl::StatusCode::kAborted:
      return ECANCELED;
    case absl::StatusCode::kUnavailable:
      return EHOSTUNREACH;
    case absl::StatusCode::kOutOfRange:
      return EFBIG;
    case absl::StatusCode::kUnimplemented:
      return EOPNOTSUPP;
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kDataLoss:
    default:
      return EIO;
  }
}

}  // namespace

absl::Status StatusFromErrno(int error, std::string_view what) {
  if (error == 0) return absl::OkStatus();
  const char* text = strerrordesc_np(error);
  absl::Status status(absl::ErrnoToStatusCode(error),
                      text != nullptr ? absl::StrCat(View(what), ": ", text)
                                      : absl::StrCat(View(what), ": errno ", error));
  status.SetPayload(kErrnoPayload, absl::Cord(absl::StrCat(error)));
  return status;
}

int ErrnoFromStatus(const absl::Status& status) {
  if (absl::optional<absl::Cord> payload = status.GetPayload(kErrnoPayload)) {
    int error = 0;
    if (absl::SimpleAtoi(std::string(*payload), &error) && error > 0) return error;
  }
  return ErrnoFromCode(status.code());
}

}  // namespace intermezzo
