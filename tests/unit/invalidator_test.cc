// An invalidation is not lost on the kernel's way to knowing the object: an answer to a lookup
// holds attributes from before a forwarded record, and the kernel reads it only after it was told.
#include "services/sidecar/fuse/invalidator.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>

namespace intermezzo::sidecar {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(10);

// Knows an object from its `arrives_at`-th telling on.
class FakeKernel : public KernelCache {
 public:
  int DropEntry(ObjectId, const std::string&) override { return 0; }
  int DropAttributes(ObjectId) override { return Told(); }
  int DropPages(ObjectId, int64_t, int64_t) override { return Told(); }
  bool MayArrive(ObjectId) override { return may_arrive; }
  bool CanDropAllEntries() const override { return false; }
  int DropAllEntries() override { return -ENOSYS; }

  std::atomic<int> arrives_at{1};
  std::atomic<bool> may_arrive{true};
  std::atomic<int> told{0};

 private:
  int Told() { return ++told >= arrives_at ? 0 : -ENOENT; }
};

Invalidation OfObject(int64_t length) {
  Invalidation what;
  what.objects.push_back({ObjectId(7), 0, length});
  return what;
}

class InvalidatorTest : public testing::TestWithParam<int64_t> {
 protected:
  InvalidatorTest() : invalidator_(&kernel_, Invalidator::Limits()) { invalidator_.Start(); }
  FakeKernel kernel_;
  Invalidator invalidator_;
};

TEST_P(InvalidatorTest, AnObjectOnItsWayIsToldAgainUntilItIsThere) {
  kernel_.arrives_at = 4;
  invalidator_.Queue(OfObject(GetParam()));
  ASSERT_TRUE(invalidator_.WaitIdle(kPatience));
  EXPECT_EQ(kernel_.told, 4);
}

TEST_P(InvalidatorTest, AnObjectThatTheKernelForgotIsToldOnce) {
  kernel_.arrives_at = 4;
  kernel_.may_arrive = false;
  invalidator_.Queue(OfObject(GetParam()));
  ASSERT_TRUE(invalidator_.WaitIdle(kPatience));
  EXPECT_EQ(kernel_.told, 1);
}

TEST_P(InvalidatorTest, AnObjectThatIsKnownIsToldOnce) {
  invalidator_.Queue(OfObject(GetParam()));
  ASSERT_TRUE(invalidator_.WaitIdle(kPatience));
  EXPECT_EQ(kernel_.told, 1);
}

// Attributes only, a range, everything.
INSTANTIATE_TEST_SUITE_P(Lengths, InvalidatorTest, testing::Values(0, 4096, -1));

}  // namespace
}  // namespace intermezzo::sidecar
