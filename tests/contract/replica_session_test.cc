// Sessions of two nodes and a server that is plain memory: the loop, its threads and the replica
// together, without gRPC (so that ThreadSanitizer sees everything).
#include "services/sidecar/session/replica_session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/contract/session_world.h"

namespace intermezzo::sidecar {
namespace {

using tests::Eventually;
using Server = tests::SessionServer;
using Node = tests::SessionNode;
using tests::Settled;

TEST(ReplicaSessionTest, TokenMovesWithTheData) {
  Server server;
  Node a(server, 1), b(server, 2);
  std::string expected;
  for (int i = 0; i < 40; ++i) {
    Node& node = i % 2 == 0 ? a : b;
    const std::string line = absl::StrCat(i, "\n");
    ASSERT_EQ(node.Append("log", line), 0);
    expected += line;
    ASSERT_EQ(node.Read("log"), expected);
  }
  EXPECT_TRUE(Settled(server, a));
  EXPECT_TRUE(Settled(server, b));
  EXPECT_EQ(a.Read("log"), b.Read("log"));
}

TEST(ReplicaSessionTest, ManyWritersOnBothNodes) {
  Server server;
  Node a(server, 1), b(server, 2);
  std::vector<std::thread> threads;
  std::atomic<int> failed = 0;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      for (int k = 0; k < 25; ++k) {
        if ((i % 2 == 0 ? a : b).Append(absl::StrCat("file", i), "x") != 0) ++failed;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failed, 0);
  EXPECT_TRUE(Settled(server, a));
  EXPECT_TRUE(Settled(server, b));
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(a.Read(absl::StrCat("file", i)), std::string(25, 'x'));
    EXPECT_EQ(b.Read(absl::StrCat("file", i)), std::string(25, 'x'));
  }
}

TEST(ReplicaSessionTest, StopGivesTheTokenBack) {
  Server server;
  Node a(server, 1), b(server, 2);
  ASSERT_EQ(a.Append("file", "1"), 0);
  EXPECT_EQ(server.holder(), 1);
  EXPECT_TRUE(a.Stop().ok());
  EXPECT_EQ(server.holder(), 0);
  ASSERT_EQ(b.Append("file", "2"), 0);
  EXPECT_EQ(b.Read("file"), "12");
  a.Start();
  EXPECT_TRUE(Settled(server, a));
  EXPECT_EQ(a.Read("file"), "12");
}

TEST(ReplicaSessionTest, WorksAloneAndComesBack) {
  Server server;
  Node a(server, 1);
  ASSERT_EQ(a.Append("file", "1"), 0);
  ASSERT_TRUE(Settled(server, a));
  server.SetReachable(false);
  ASSERT_EQ(a.Append("file", "2"), 0);
  ASSERT_TRUE(a.Await(Connection::Phase::kDisconnected));  // when the lease is over
  const uint64_t head = server.head();
  ASSERT_EQ(a.Append("file", "3"), 0);
  EXPECT_EQ(server.head(), head);
  server.SetReachable(true);
  EXPECT_TRUE(Settled(server, a));
  EXPECT_GT(server.head(), head);
  Node b(server, 2);
  EXPECT_TRUE(Settled(server, b));
  EXPECT_EQ(b.Read("file"), "123");
}

TEST(ReplicaSessionTest, TokenTakenAwayIsNoticed) {
  Server server;
  Node a(server, 1), b(server, 2);
  ASSERT_EQ(a.Append("a", "1"), 0);
  ASSERT_TRUE(Settled(server, a));
  server.Expire();
  ASSERT_EQ(b.Append("b", "1"), 0);
  // Its gate may still be open: what it writes is refused, kept, and appended under a new grant.
  ASSERT_EQ(a.Append("a", "2"), 0);
  EXPECT_TRUE(Settled(server, a));
  EXPECT_TRUE(Settled(server, b));
  EXPECT_EQ(b.Read("a"), "12");
}

TEST(ReplicaSessionTest, ConflictThatNobodyResolvesStopsTheReplica) {
  Server server;
  Node a(server, 1), b(server, 2);
  ASSERT_EQ(a.Append("file", "1"), 0);
  ASSERT_TRUE(Settled(server, a));
  ASSERT_TRUE(Settled(server, b));
  // Both alone, one after the other comes back.
  server.SetReachable(false);
  ASSERT_TRUE(a.Await(Connection::Phase::kDisconnected));
  ASSERT_TRUE(b.Await(Connection::Phase::kDisconnected));
  ASSERT_EQ(a.Append("file", "a"), 0);
  ASSERT_EQ(b.Append("file", "b"), 0);
  server.SetReachable(true);
  EXPECT_TRUE(Eventually([&] {
    return a.session().status().phase == Connection::Phase::kFailed ||
           b.session().status().phase == Connection::Phase::kFailed;
  }));
  Node& failed = a.session().status().phase == Connection::Phase::kFailed ? a : b;
  a.ExpectFailed();
  b.ExpectFailed();
  EXPECT_EQ(failed.Append("file", "x"), EIO);
  EXPECT_EQ(failed.Read("file").substr(0, 1), "1");
  EXPECT_FALSE(failed.session().status().error.ok());
}

}  // namespace
}  // namespace intermezzo::sidecar
