// Where the bytes of parked writes wait: in memory, then in a file, then nowhere.
#include "services/sidecar/fuse/parked_payloads.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "services/common/status/errno.h"
#include "tests/support/temp_dir.h"

namespace intermezzo::sidecar {
namespace {

using Kept = std::shared_ptr<const ParkedPayloads::Payload>;

std::string BytesOf(const Kept& payload) {
  std::string buffer;
  const auto bytes = payload->Bytes(buffer);
  return bytes.ok() ? std::string(*bytes) : bytes.status().ToString();
}

class ParkedPayloadsTest : public ::testing::Test {
 protected:
  Kept Keep(char letter, bool must = false) {
    auto kept = payloads_->Keep(std::string(10, letter), must);
    if (!kept.ok()) {
      EXPECT_EQ(ErrnoFromStatus(kept.status()), EAGAIN) << kept.status();
      return nullptr;
    }
    return *kept;
  }

  const tests::TempDir dir_;
  std::unique_ptr<ParkedPayloads> payloads_ = std::make_unique<ParkedPayloads>(
      ParkedPayloads::Limits{.memory_bytes = 20, .file_bytes = 30, .directory = dir_.path()});
};

TEST_F(ParkedPayloadsTest, FillMemoryThenTheFileThenAreRefused) {
  std::vector<Kept> kept;
  for (char letter : {'a', 'b', 'c', 'd', 'e'}) {
    kept.push_back(Keep(letter));
    ASSERT_NE(kept.back(), nullptr) << letter;
  }
  EXPECT_EQ(payloads_->memory_bytes(), 20u);
  EXPECT_EQ(payloads_->file_bytes(), 30u);
  EXPECT_EQ(Keep('f'), nullptr);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(BytesOf(kept[i]), std::string(10, 'a' + i));
  // Room that comes free is used again: memory at once, the file when all of it is.
  kept[0].reset();
  kept[2].reset();
  EXPECT_EQ(payloads_->memory_bytes(), 10u);
  kept[0] = Keep('f');
  ASSERT_NE(kept[0], nullptr);
  EXPECT_EQ(Keep('g'), nullptr);
  kept[3].reset();
  kept[4].reset();
  EXPECT_EQ(payloads_->file_bytes(), 0u);
  kept[3] = Keep('g');
  ASSERT_NE(kept[3], nullptr);
  EXPECT_EQ(BytesOf(kept[3]), std::string(10, 'g'));
  EXPECT_EQ(BytesOf(kept[0]), std::string(10, 'f'));
}

TEST_F(ParkedPayloadsTest, WhatMustBeKeptIsKept) {
  std::vector<Kept> kept;
  for (char letter = 'a'; letter < 'k'; ++letter) {
    kept.push_back(Keep(letter, /*must=*/true));
    ASSERT_NE(kept.back(), nullptr) << letter;
  }
  for (int i = 0; i < 10; ++i) EXPECT_EQ(BytesOf(kept[i]), std::string(10, 'a' + i));
  EXPECT_EQ(payloads_->memory_bytes(), 70u);
  kept.clear();
  EXPECT_EQ(payloads_->memory_bytes(), 0u);
  EXPECT_EQ(payloads_->file_bytes(), 0u);
}

TEST_F(ParkedPayloadsTest, WithoutAFileMemoryIsTheLimit) {
  for (const std::string& directory : {std::string(), dir_.path() + "/not-there"}) {
    payloads_ = std::make_unique<ParkedPayloads>(
        ParkedPayloads::Limits{.memory_bytes = 20, .file_bytes = 30, .directory = directory});
    const Kept a = Keep('a');
    const Kept b = Keep('b');
    ASSERT_NE(b, nullptr);
    EXPECT_EQ(Keep('c'), nullptr);
    EXPECT_NE(Keep('c', /*must=*/true), nullptr);
  }
}

TEST_F(ParkedPayloadsTest, APayloadMayOutliveThem) {
  std::vector<Kept> kept = {Keep('a'), Keep('b'), Keep('c')};
  payloads_.reset();
  EXPECT_EQ(BytesOf(kept[2]), std::string(10, 'c'));
}

// A file that can take no more: what is on its way is refused, or kept in memory where it must be.
TEST_F(ParkedPayloadsTest, AWriteToTheFileThatFailsIsNoLoss) {
  const Kept a = Keep('a');
  const Kept b = Keep('b');
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto ignored = signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 4;  // in the midst of the bytes
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto refused = payloads_->Keep("0123456789", false);
  const auto kept = payloads_->Keep("0123456789", true);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  signal(SIGXFSZ, ignored);
  EXPECT_EQ(ErrnoFromStatus(refused.status()), EAGAIN);
  ASSERT_TRUE(kept.ok());
  EXPECT_EQ(BytesOf(*kept), "0123456789");
  EXPECT_EQ(payloads_->memory_bytes(), 30u);
  EXPECT_EQ(payloads_->file_bytes(), 0u);
}

}  // namespace
}  // namespace intermezzo::sidecar
