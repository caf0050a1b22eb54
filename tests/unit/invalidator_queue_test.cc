// The queue of invalidations: merging, limits, and that nothing waits for what is held or stuck.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/sidecar/fuse/invalidator.h"
#include "tests/support/eventually.h"

namespace intermezzo::sidecar {
namespace {

using ::testing::UnorderedElementsAre;

// Remembers the calls; those about `stuck` objects do not return until they are let go.
class FakeKernel : public KernelCache {
 public:
  int DropEntry(ObjectId parent, const std::string& name) override {
    return Call(parent, absl::StrCat("entry ", parent.value(), " ", name));
  }
  int DropAttributes(ObjectId object) override {
    return Call(ObjectId(), absl::StrCat("attributes ", object.value()));
  }
  int DropPages(ObjectId object, int64_t offset, int64_t length) override {
    // A directory's listing never blocks.
    const bool listing = offset == 0 && length == 0;
    return Call(listing ? ObjectId() : object,
                absl::StrCat("pages ", object.value(), " ", offset, " ", length));
  }
  bool MayArrive(ObjectId) override { return false; }
  bool CanDropAllEntries() const override { return true; }
  int DropAllEntries() override { return Call(ObjectId(), "all"); }

  void SetStuck(uint64_t object) {
    absl::MutexLock lock(&mu_);
    stuck_ = object;
  }
  std::vector<std::string> calls() const {
    absl::MutexLock lock(&mu_);
    return calls_;
  }

 private:
  int Call(ObjectId object, std::string text) {
    absl::MutexLock lock(&mu_);
    auto free = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return stuck_ == 0 || stuck_ != object.value();
    };
    mu_.Await(absl::Condition(&free));
    calls_.push_back(std::move(text));
    return 0;
  }

  mutable absl::Mutex mu_;
  uint64_t stuck_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<std::string> calls_ ABSL_GUARDED_BY(mu_);
};

Invalidation Name(uint64_t parent, const std::string& name) {
  Invalidation what;
  what.entries.push_back({ObjectId(parent), name});
  return what;
}

Invalidation Pages(uint64_t object, int64_t offset, int64_t length) {
  Invalidation what;
  what.objects.push_back({ObjectId(object), offset, length});
  return what;
}

class InvalidatorQueueTest : public ::testing::Test {
 protected:
  void Start(Invalidator::Limits limits = {}) {
    invalidator_ = std::make_unique<Invalidator>(&kernel_, limits);
  }
  void Run() {
    invalidator_->Start();
    ASSERT_TRUE(invalidator_->WaitIdle(absl::Seconds(30)));
  }
  FakeKernel kernel_;
  std::unique_ptr<Invalidator> invalidator_;
};

TEST_F(InvalidatorQueueTest, NamesAlsoDropTheListing) {
  Start();
  invalidator_->Queue(Name(5, "a"));
  invalidator_->Queue(Name(5, "a"));
  Run();
  EXPECT_THAT(kernel_.calls(), UnorderedElementsAre("entry 5 a", "pages 5 0 0"));
}

TEST_F(InvalidatorQueueTest, RangesBecomeOne) {
  Start();
  invalidator_->Queue(Pages(7, 4096, 100));
  invalidator_->Queue(Pages(7, 100, 50));
  invalidator_->Queue(Pages(8, 10, 10));
  invalidator_->Queue(Pages(8, 100, -1));
  invalidator_->Queue(Pages(9, 0, 0));
  Run();
  EXPECT_THAT(kernel_.calls(),
              UnorderedElementsAre("pages 7 100 4096", "pages 8 10 0", "attributes 9"));
}

TEST_F(InvalidatorQueueTest, HeldObjectsWaitAndOthersPass) {
  Start();
  invalidator_->Hold({5, 7});
  invalidator_->Queue(Name(5, "held"));
  invalidator_->Queue(Pages(7, 0, 10));
  invalidator_->Queue(Name(6, "free"));
  invalidator_->Queue(Pages(7, 0, 0));
  Run();
  EXPECT_THAT(kernel_.calls(),
              UnorderedElementsAre("pages 5 0 0", "pages 6 0 0", "entry 6 free", "attributes 7"));
  invalidator_->Hold({5});
  invalidator_->Release({5, 7});
  ASSERT_TRUE(tests::Eventually([&] { return kernel_.calls().size() == 5; }));
  EXPECT_EQ(kernel_.calls().back(), "pages 7 0 10");
  invalidator_->Release({5});  // the second hold
  ASSERT_TRUE(tests::Eventually([&] { return kernel_.calls().size() == 6; }));
  EXPECT_EQ(kernel_.calls().back(), "entry 5 held");
}

TEST_F(InvalidatorQueueTest, OneStuckObjectHoldsUpNoOther) {
  Start();
  kernel_.SetStuck(5);
  invalidator_->Queue(Name(5, "a"));
  invalidator_->Start();
  ASSERT_TRUE(tests::Eventually([&] { return kernel_.calls().size() == 1; }));
  // More work for the stuck one occupies no further thread.
  for (int i = 0; i < 10; ++i) invalidator_->Queue(Name(5, absl::StrCat("b", i)));
  for (int i = 0; i < 10; ++i) invalidator_->Queue(Pages(100 + i, 1, 1));
  ASSERT_TRUE(tests::Eventually([&] {
    const auto calls = kernel_.calls();
    return std::count(calls.begin(), calls.end(), "pages 109 1 1") == 1;
  }));
  kernel_.SetStuck(0);
  ASSERT_TRUE(invalidator_->WaitIdle(absl::Seconds(30)));
  const auto calls = kernel_.calls();
  EXPECT_EQ(std::count(calls.begin(), calls.end(), "entry 5 b9"), 1);
}

TEST_F(InvalidatorQueueTest, TooManyNamesBecomeAll) {
  Start({.max_names = 10, .slow_threads = 2});
  for (int i = 0; i < 100; ++i) invalidator_->Queue(Name(5, absl::StrCat(i)));
  invalidator_->Queue(Pages(7, 0, 10));
  Run();
  EXPECT_THAT(kernel_.calls(), UnorderedElementsAre("all", "pages 5 0 0", "pages 7 0 10"));
}

}  // namespace
}  // namespace intermezzo::sidecar
