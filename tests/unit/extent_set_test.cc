// Dirty extents against a model that keeps each byte.
#include "services/sidecar/replica/extent_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>

namespace intermezzo::sidecar {
namespace {

using ::testing::ElementsAre;
using Extent = ExtentSet::Extent;

TEST(ExtentSetTest, MergesWhatOverlapsOrTouches) {
  ExtentSet set;
  set.Add(10, 5);
  set.Add(20, 5);
  set.Add(15, 5);
  set.Add(0, 0);
  EXPECT_EQ(set.bytes(), 15u);
  EXPECT_THAT(set.Take(100), ElementsAre(Extent{10, 15, false}));
  EXPECT_TRUE(set.empty());
  EXPECT_EQ(set.bytes(), 0u);
}

TEST(ExtentSetTest, TakesAtMostWhatIsAskedFor) {
  ExtentSet set;
  set.Add(0, 10);
  set.Add(100, 10);
  EXPECT_THAT(set.Take(15), ElementsAre(Extent{0, 10, false}, Extent{100, 5, false}));
  EXPECT_THAT(set.Take(15), ElementsAre(Extent{105, 5, false}));
}

TEST(ExtentSetTest, EndsAtTheLargestOffset) {
  ExtentSet set;
  set.Add(UINT64_MAX - 1, 100);
  EXPECT_THAT(set.Take(100), ElementsAre(Extent{UINT64_MAX - 1, 1, false}));
}

TEST(ExtentSetTest, OverTheLimitTheClosestAreMergedAndSparse) {
  ExtentSet set;
  for (uint64_t i = 0; i < ExtentSet::kMaxExtents; ++i) set.Add(i * 1000, 10);
  set.Add(7020, 10);  // a gap of 10 to the one at 7000
  EXPECT_EQ(set.bytes(), 10 * (ExtentSet::kMaxExtents + 1)) << "gaps are not counted";
  std::vector<Extent> all;
  while (!set.empty()) {
    for (const Extent& extent : set.Take(1 << 20)) all.push_back(extent);
  }
  EXPECT_EQ(all.size(), ExtentSet::kMaxExtents);
  EXPECT_EQ(all[7], (Extent{7000, 30, true}));
  EXPECT_EQ(all[8], (Extent{8000, 10, false}));
}

TEST(ExtentSetTest, RandomAgainstAModel) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 200; ++round) {
    ExtentSet set;
    std::set<uint64_t> written;
    for (int i = 0; i < 150; ++i) {
      const uint64_t offset = random() % 5000;
      const uint64_t length = random() % 20;
      set.Add(offset, length);
      for (uint64_t b = offset; b < offset + length; ++b) written.insert(b);
    }
    uint64_t end = 0;
    std::set<uint64_t> taken;
    while (!set.empty()) {
      for (const Extent& extent : set.Take(1 + random() % 300)) {
        EXPECT_GE(extent.offset, end) << "ascending, not overlapping";
        end = extent.offset + extent.length;
        for (uint64_t b = extent.offset; b < end; ++b) {
          taken.insert(b);
          if (!extent.sparse) {
            EXPECT_TRUE(written.contains(b)) << "a dense extent holds what was written only";
          }
        }
      }
    }
    EXPECT_EQ(set.bytes(), 0u);
    for (uint64_t b : written) ASSERT_TRUE(taken.contains(b));
  }
}

}  // namespace
}  // namespace intermezzo::sidecar
