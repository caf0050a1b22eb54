// The write gate: parking, order, drain, and that no parked update is ever forgotten.
#include "services/sidecar/replica/write_gate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <thread>
#include <vector>

#include "services/common/status/errno.h"

namespace intermezzo::sidecar {
namespace {

using ::testing::ElementsAre;

void RunInline(std::function<void()> work) { work(); }

TEST(WriteGateTest, ClosedGateParksAndOpenResumesInOrder) {
  int wanted = 0;
  WriteGate gate([&] { ++wanted; }, RunInline);
  EXPECT_FALSE(gate.TryEnter());
  std::vector<int> order;
  for (int i = 0; i < 3; ++i) {
    gate.EnterOrPark([&, i](absl::Status status) {
      EXPECT_TRUE(status.ok());
      EXPECT_EQ(gate.authority().epoch, Epoch(7));
      order.push_back(i);
      gate.Leave();
    });
  }
  EXPECT_EQ(wanted, 1) << "only the first parked update asks";
  EXPECT_TRUE(gate.wanted());
  gate.Open({Epoch(7)});
  EXPECT_THAT(order, ElementsAre(0, 1, 2));
  EXPECT_FALSE(gate.wanted());
  EXPECT_TRUE(gate.TryEnter());
  gate.Leave();
}

TEST(WriteGateTest, CloseAsksAgainForThoseStillParked) {
  int wanted = 0;
  WriteGate gate([&] { ++wanted; }, RunInline);
  gate.EnterOrPark([](absl::Status) {});
  gate.Close();
  EXPECT_EQ(wanted, 2);
}

TEST(WriteGateTest, ResumedUpdatesHoldUpTheDrainOfTheNextClose) {
  std::vector<std::function<void()>> later;
  WriteGate gate([] {}, [&](std::function<void()> work) { later.push_back(std::move(work)); });
  bool entered = false;
  gate.EnterOrPark([&](absl::Status status) { entered = status.ok(); });
  gate.Open({Epoch(1)});
  gate.Close();
  EXPECT_EQ(gate.WaitDrained(absl::ZeroDuration()).code(), absl::StatusCode::kDeadlineExceeded);
  ASSERT_EQ(later.size(), 1u);
  later[0]();
  EXPECT_TRUE(entered);
  gate.Leave();
  EXPECT_TRUE(gate.WaitDrained(absl::ZeroDuration()).ok());
}

TEST(WriteGateTest, LimitOfParkedUpdatesAnswersEagain) {
  WriteGate gate([] {}, RunInline, 1);
  gate.EnterOrPark([](absl::Status) {});
  absl::Status refused;
  gate.EnterOrPark([&](absl::Status status) { refused = status; });
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrnoFromStatus(refused), EAGAIN);
}

TEST(WriteGateTest, FailedGateRefusesForEver) {
  WriteGate gate([] {}, RunInline);
  std::vector<absl::StatusCode> codes;
  auto note = [&](absl::Status status) { codes.push_back(status.code()); };
  gate.EnterOrPark(note);
  gate.FailParked(absl::UnavailableError("away"));
  gate.EnterOrPark(note);
  gate.Fail(absl::DataLossError("broken"));
  gate.Open({Epoch(1)});
  EXPECT_FALSE(gate.is_open());
  gate.EnterOrPark(note);
  EXPECT_THAT(codes, ElementsAre(absl::StatusCode::kUnavailable, absl::StatusCode::kDataLoss,
                                 absl::StatusCode::kDataLoss));
}

// Many writers against a gate that opens and closes all the time: each update runs exactly once,
// none while the gate is drained, none is left behind.
TEST(WriteGateTest, ManyThreadsAgainstOpeningAndClosing) {
  constexpr int kThreads = 8;
  constexpr int kUpdates = 3000;
  constexpr int kRounds = 200;
  WriteGate gate([] {}, RunInline);
  std::atomic<bool> drained{true};
  std::atomic<int> done{0};
  std::atomic<int> trespasses{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kUpdates; ++i) {
        auto update = [&](absl::Status status) {
          if (!status.ok() || drained.load()) ++trespasses;
          ++done;
          gate.Leave();
        };
        if (i % 2 == 0 && gate.TryEnter()) {
          update(absl::OkStatus());
        } else {
          gate.EnterOrPark(update);
        }
      }
    });
  }
  for (int round = 1; round <= kRounds; ++round) {
    drained = false;
    gate.Open({Epoch(round)});
    gate.Close();
    ASSERT_TRUE(gate.WaitDrained(absl::Seconds(60)).ok());
    drained = true;
  }
  drained = false;
  gate.Open({Epoch(kRounds + 1)});
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(done, kThreads * kUpdates);
  EXPECT_EQ(trespasses, 0);
  gate.Close();
  EXPECT_TRUE(gate.WaitDrained(absl::ZeroDuration()).ok());
}

}  // namespace
}  // namespace intermezzo::sidecar
