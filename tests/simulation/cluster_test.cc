// Goal: promises 1, 2, 3, 5 and 6 hold in a whole cluster whatever the network and the machines do.
// One thread, virtual time, everything from one seed. A failed seed prints itself; run it again
// with --seed=N, more of them with --seeds=N.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/simulation/checker.h"
#include "tests/simulation/sim_node.h"
#include "tests/simulation/sim_server.h"
#include "tests/simulation/world.h"

namespace intermezzo::simulation {
namespace {

uint64_t g_first_seed = 1;
uint64_t g_seeds = 200;

constexpr int kNodes = 3;
constexpr absl::Duration kTrouble = absl::Seconds(40);
constexpr absl::Duration kPeace = absl::Seconds(60);

struct Result {
  std::vector<std::string> violations;
  uint64_t commits = 0, set_aside = 0;
};

class Cluster {
 public:
  explicit Cluster(uint64_t seed) : world_(seed), server_(world_, checker_) {
    const bool offline_writes = seed % 2 == 0;
    for (int place = 1; place <= kNodes; ++place) {
      nodes_.push_back(std::make_unique<SimNode>(world_, checker_, server_, place, offline_writes));
    }
  }

  Result Run() {
    world_.faults().lose = 0.002 * world_.Below(10);
    world_.faults().duplicate = 0.01 * world_.Below(5);
    world_.faults().reorder = 0.002 * world_.Below(5);
    ScheduleUpdate();
    ScheduleTrouble();
    RunUntil(kTrouble);
    Heal();
    RunUntil(kTrouble + kPeace);
    for (const auto& node : nodes_) {
      if (!node->quiet()) checker_.Violation("it never came to rest: " + node->StateText());
    }
    checker_.Finish();
    return {checker_.violations(), checker_.commits(), checker_.set_aside()};
  }

 private:
  SimNode& AnyNode() { return *nodes_[world_.Below(nodes_.size())]; }

  void RunUntil(absl::Duration end) {
    while (checker_.violations().empty() && world_.Step(end)) {
      int writers = 0;
      for (const auto& node : nodes_) writers += node->writes_under_token();
      checker_.Writers(writers, world_.now());
    }
  }

  void ScheduleUpdate() {
    world_.After(world_.UpTo(absl::Milliseconds(60)), [this] {
      if (healed_) return;
      // Runs of one node, so that tokens move and are held.
      if (world_.Chance(0.05)) favourite_ = world_.Below(nodes_.size());
      (world_.Chance(0.9) ? *nodes_[favourite_] : AnyNode()).Update();
      ScheduleUpdate();
    });
  }

  void ScheduleTrouble() {
    world_.After(world_.UpTo(absl::Seconds(3)), [this] {
      if (healed_) return;
      SimNode& node = AnyNode();
      const Place place = 1 + static_cast<Place>(world_.Below(kNodes));
      const absl::Duration length = world_.UpTo(absl::Seconds(6));
      switch (world_.Below(6)) {
        case 0:
          world_.Partition(kServer, place);
          world_.After(length, [this, place] { world_.Heal(kServer, place); });
          break;
        case 1:
          node.Crash();
          world_.After(length, [&node] { node.Restart(); });
          break;
        case 2:
          node.Pause();
          world_.After(length, [&node] { node.Resume(); });
          break;
        case 3:
          server_.RestartTokenService();
          break;
        case 4:
          server_.RestartForwarder();
          break;
        default:
          break;
      }
      ScheduleTrouble();
    });
  }

  void Heal() {
    healed_ = true;
    world_.HealAll();
    world_.faults() = Faults{.lose = 0, .duplicate = 0, .reorder = 0};
    for (auto& node : nodes_) {
      node->Resume();
      node->Restart();
    }
  }

  World world_;
  Checker checker_;
  SimServer server_;
  std::vector<std::unique_ptr<SimNode>> nodes_;
  uint64_t favourite_ = 0;
  bool healed_ = false;
};

TEST(ClusterTest, PromisesHoldForEverySeed) {
  uint64_t commits = 0, set_aside = 0;
  for (uint64_t seed = g_first_seed; seed < g_first_seed + g_seeds; ++seed) {
    const Result result = Cluster(seed).Run();
    ASSERT_TRUE(result.violations.empty())
        << "seed " << seed << " (run it alone: --seed=" << seed << "):\n"
        << absl::StrJoin(result.violations, "\n");
    commits += result.commits;
    set_aside += result.set_aside;
  }
  std::printf("%llu seeds: %llu records committed, %llu set aside by conflicts\n",
              static_cast<unsigned long long>(g_seeds), static_cast<unsigned long long>(commits),
              static_cast<unsigned long long>(set_aside));
  EXPECT_GT(commits, 20 * g_seeds) << "the runs do too little to show anything";
}

TEST(ClusterTest, ASeedReproducesItsRun) {
  const Result first = Cluster(g_first_seed).Run();
  const Result second = Cluster(g_first_seed).Run();
  EXPECT_EQ(first.commits, second.commits);
  EXPECT_EQ(first.set_aside, second.set_aside);
}

}  // namespace

void ParseFlags(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    uint64_t value = 0;
    if (arg.starts_with("--seed=") && absl::SimpleAtoi(arg.substr(7), &value)) {
      g_first_seed = value;
      g_seeds = 1;
    } else if (arg.starts_with("--seeds=") && absl::SimpleAtoi(arg.substr(8), &value)) {
      g_seeds = value;
    } else {
      std::fprintf(stderr, "unknown flag %s: use --seed=N or --seeds=N\n", arg.c_str());
      std::exit(2);
    }
  }
}

}  // namespace intermezzo::simulation

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  intermezzo::simulation::ParseFlags(argc, argv);
  return RUN_ALL_TESTS();
}
