// Status and errno: what a system call said survives; nothing misleading is made up.
#include "services/common/status/errno.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace intermezzo {
namespace {

TEST(ErrnoTest, EveryErrnoSurvives) {
  for (int error :
       {EPERM,  ENOENT, EIO,    EACCES,       EEXIST,    EXDEV,   ENOTDIR,    EISDIR, EINVAL, EFBIG,
        ENOSPC, EROFS,  EMLINK, ENAMETOOLONG, ENOTEMPTY, ENODATA, EOPNOTSUPP, ESTALE, EDQUOT, ENXIO,
        EBUSY,  EAGAIN, ERANGE, E2BIG,        ELOOP,     ETXTBSY, ENODEV,     131}) {
    const absl::Status status = StatusFromErrno(error, "unlink a");
    EXPECT_FALSE(status.ok()) << error;
    EXPECT_EQ(ErrnoFromStatus(status), error) << status;
  }
}

TEST(ErrnoTest, ZeroIsOkBothWays) {
  EXPECT_TRUE(StatusFromErrno(0, "open").ok());
  EXPECT_EQ(ErrnoFromStatus(absl::OkStatus()), 0);
}

TEST(ErrnoTest, MessageSaysWhatAndWhy) {
  EXPECT_EQ(StatusFromErrno(ENOENT, "open a/b").message(), "open a/b: No such file or directory");
  EXPECT_EQ(StatusFromErrno(100000, "open").message(), "open: errno 100000");
}

TEST(ErrnoTest, CodeFitsTheErrno) {
  EXPECT_EQ(StatusFromErrno(ENOENT, "").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(StatusFromErrno(EEXIST, "").code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(StatusFromErrno(ENOSPC, "").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(StatusFromErrno(EDQUOT, "").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(StatusFromErrno(EACCES, "").code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(StatusFromErrno(EINVAL, "").code(), absl::StatusCode::kInvalidArgument);
}

TEST(ErrnoTest, TableOfCodes) {
  const std::pair<absl::StatusCode, int> table[] = {
      {absl::StatusCode::kCancelled, EINTR},
      {absl::StatusCode::kUnknown, EIO},
      {absl::StatusCode::kInvalidArgument, EINVAL},
      {absl::StatusCode::kDeadlineExceeded, ETIMEDOUT},
      {absl::StatusCode::kNotFound, ENOENT},
      {absl::StatusCode::kAlreadyExists, EEXIST},
      {absl::StatusCode::kPermissionDenied, EACCES},
      {absl::StatusCode::kUnauthenticated, EACCES},
      {absl::StatusCode::kResourceExhausted, ENOSPC},
      {absl::StatusCode::kFailedPrecondition, EBUSY},
      {absl::StatusCode::kAborted, ECANCELED},
      {absl::StatusCode::kOutOfRange, EFBIG},
      {absl::StatusCode::kUnimplemented, EOPNOTSUPP},
      {absl::StatusCode::kInternal, EIO},
      {absl::StatusCode::kUnavailable, EHOSTUNREACH},
      {absl::StatusCode::kDataLoss, EIO}};
  for (const auto& [code, error] : table) {
    EXPECT_EQ(ErrnoFromStatus(absl::Status(code, "")), error) << absl::StatusCodeToString(code);
  }
}

}  // namespace
}  // namespace intermezzo
