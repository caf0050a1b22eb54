// Nodes against the real services: tokens, forwarding, cuts and restarts, joining.
#include <errno.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/support/eventually.h"
#include "tests/support/session_cluster.h"
#include "tests/support/tree_digest.h"

namespace intermezzo {
namespace {

using sidecar::Connection;
using testing::IsEmpty;
using tests::Eventually;
using tests::ScriptedWriter;
using tests::SessionCluster;

// Three empty, connected replicas.
void StartThree(SessionCluster& cluster, bool offline_writes = true) {
  cluster.CreateCollection(offline_writes);
  for (int node = 1; node <= 3; ++node) cluster.AddReplica(node);
  ASSERT_THAT(cluster.Settle({1, 2, 3}), IsEmpty());
}

TEST(SidecarSessionTest, FirstWriteGetsTheTokenAndReachesAll) {
  SessionCluster cluster;
  StartThree(cluster);
  EXPECT_EQ(cluster.Writer(1).Write("a", 0, "hello"), 0);
  EXPECT_EQ(cluster.Status(1).token, Connection::Token::kHeld);
  EXPECT_THAT(cluster.Settle({1, 2, 3}), IsEmpty());
  EXPECT_EQ(cluster.Writer(3).Read("a"), "hello");
}

TEST(SidecarSessionTest, TokenMovesWithTheData) {
  SessionCluster cluster;
  StartThree(cluster);
  std::string expected;
  for (int round = 0; round < 30; ++round) {
    ScriptedWriter writer = cluster.Writer(1 + round % 3);
    const std::string line = absl::StrCat("line ", round, "\n");
    // Its offset is right only where it has everything that the others wrote.
    ASSERT_EQ(writer.Append("log", line), 0);
    expected += line;
    ASSERT_EQ(writer.Read("log"), expected);
  }
  EXPECT_THAT(cluster.Settle({1, 2, 3}), IsEmpty());
}

TEST(SidecarSessionTest, SixteenThreadsWriteFirstAtOnce) {
  SessionCluster cluster;
  StartThree(cluster);
  std::vector<std::thread> threads;
  std::atomic<int> failed = 0;
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([&, i] {
      ScriptedWriter writer = cluster.Writer(1 + i % 3);
      if (writer.Write(absl::StrCat("file", i), 0, "x") != 0) ++failed;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failed, 0);
  EXPECT_THAT(cluster.Settle({1, 2, 3}), IsEmpty());
}

TEST(SidecarSessionTest, NodeCutOffReadsAndWritesAndComesBack) {
  SessionCluster cluster;
  StartThree(cluster);
  ASSERT_EQ(cluster.Writer(3).Write("mine", 0, "before"), 0);
  ASSERT_THAT(cluster.Settle({1, 2, 3}), IsEmpty());
  cluster.Proxy(3, "cut");
  ASSERT_EQ(cluster.Writer(1).Write("theirs", 0, "meanwhile"), 0);
  ASSERT_TRUE(cluster.AwaitPhase(3, Connection::Phase::kDisconnected));
  ASSERT_EQ(cluster.Writer(3).Append("mine", " and alone"), 0);
  ASSERT_EQ(cluster.Writer(3).Write("new", 0, "made alone"), 0);
  ASSERT_TRUE(cluster.Replica(3)->replica().CutAll().ok());
  node::v1::ReplicaStatus alone = cluster.Replica(3)->status();
  EXPECT_GT(alone.pending_records(), 0u);
  EXPECT_LT(alone.settled_origin_seq(), alone.last_origin_seq());
  ASSERT_THAT(cluster.Settle({1, 2}), IsEmpty());
  EXPECT_EQ(cluster.Writer(1).Read("new"), "");
  cluster.Proxy(3, "mend");
  EXPECT_THAT(cluster.Settle({1, 2, 3}), IsEmpty());
  EXPECT_EQ(cluster.Writer(1).Read("mine"), "before and alone");
  EXPECT_EQ(cluster.Writer(3).Read("theirs"), "meanwhile");
  const node::v1::ReplicaStatus back = cluster.Replica(3)->status();
  EXPECT_EQ(back.pending_records(), 0u);
  EXPECT_EQ(back.settled_origin_seq(), back.last_origin_seq());
  EXPECT_GE(back.last_origin_seq(), alone.last_origin_seq());
}

TEST(SidecarSessionTest, BothSidesOfACutWriteOneFile) {
  SessionCluster cluster;
  StartThree(cluster);
  ASSERT_EQ(cluster.Writer(3).Write("page", 0, "before"), 0);
  ASSERT_THAT(cluster.Settle({1, 2, 3}), IsEmpty());
  cluster.Proxy(1, "cut");
  ASSERT_TRUE(cluster.AwaitPhase(1, Connection::Phase::kDisconnected));
  ASSERT_EQ(cluster.Writer(1).Write("page", 0, "from 1"), 0);
  ASSERT_EQ(cluster.Writer(2).Write("page", 0, "from 2"), 0);
  cluster.Proxy(1, "mend");
  ASSERT_THAT(cluster.Settle({1, 2, 3}), IsEmpty());
  EXPECT_EQ(cluster.Status(1).conflicts, 1u);
  for (int node = 1; node <= 3; ++node) {
    std::map<std::string, std::string> contents;
    for (const auto& entry : std::filesystem::directory_iterator(cluster.Lower(node))) {
      const std::string name = entry.path().filename();
      const std::string shown = name.substr(0, std::min(name.find("-n"), name.size()));
      contents[shown] = cluster.Writer(node).Read(name);
    }
    EXPECT_THAT(contents, testing::UnorderedElementsAre(testing::Pair("page", "from 2"),
                                                        testing::Pair("page.conflict", "from 1")));
  }
  // It is a node as before.
  EXPECT_EQ(cluster.Writer(1).Append("page", ", then 1"), 0);
  EXPECT_THAT(cluster.Settle({1, 2, 3}), IsEmpty());
  EXPECT_EQ(cluster.Writer(2).Read("page"), "from 2, then 1");
}

TEST(SidecarSessionTest, HolderCutOffLosesTheTokenAndReintegrates) {
  SessionCluster cluster;
  StartThree(cluster);
  ASSERT_EQ(cluster.Writer(1).Write("a", 0, "1"), 0);
  cluster.Proxy(1, "reset");
  // Under its own token, as long as that is valid, then without.
  ASSERT_EQ(cluster.Writer(1).Append("a", "2"), 0);
  ASSERT_EQ(cluster.Writer(2).Write("b", 0, "of another"), 0);  // waits for the lease's end
  ASSERT_TRUE(cluster.AwaitPhase(1, Connection::Phase::kDisconnected));
  ASSERT_EQ(cluster.Writer(1).Append("a", "3"), 0);
  cluster.Proxy(1, "mend");
  EXPECT_THAT(cluster.Settle({1, 2, 3}), IsEmpty());
  EXPECT_EQ(cluster.Writer(2).Read("a"), "123");
}

TEST(SidecarSessionTest, OfflineWritesDenied) {
  SessionCluster cluster;
  StartThree(cluster, false);
  ASSERT_EQ(cluster.Writer(3).Write("a", 0, "1"), 0);
  ASSERT_THAT(cluster.Settle({1, 2, 3}), IsEmpty());
  cluster.Proxy(2, "cut");
  ASSERT_TRUE(cluster.AwaitPhase(2, Connection::Phase::kDisconnected));
  EXPECT_EQ(cluster.Writer(2).Append("a", "2"), EROFS);
  EXPECT_EQ(cluster.Writer(2).Read("a"), "1");
  cluster.Proxy(2, "mend");
  ASSERT_TRUE(cluster.AwaitPhase(2, Connection::Phase::kConnected));
  EXPECT_EQ(cluster.Writer(2).Append("a", "2"), 0);
  EXPECT_THAT(cluster.Settle({1, 2, 3}), IsEmpty());
}

// What the nodes do while a service is away is tested above; here that all get over its restart.
TEST(SidecarSessionTest, EachServiceRestartsUnderLoad) {
  SessionCluster cluster;
  StartThree(cluster);
  std::atomic<bool> stop = false;
  std::atomic<int> written = 0, failed = 0;
  std::thread load([&] {
    ScriptedWriter writer = cluster.Writer(1);
    for (int i = 0; !stop; ++i) {
      if (writer.Append(absl::StrCat("file", i % 50), absl::StrCat(i, "\n")) == 0) {
        ++written;
      } else {
        ++failed;
      }
    }
  });
  for (const char* name : {"forwarder-service", "journal-service", "token-service"}) {
    const int before = written;
    EXPECT_TRUE(Eventually([&] { return written > before + 20; }));
    cluster.KillService(name);
    const int killed = written;
    // The holder goes on meanwhile.
    EXPECT_TRUE(Eventually([&] { return written > killed + 20; })) << name;
    cluster.StartService(name);
  }
  stop = true;
  load.join();
  EXPECT_EQ(failed, 0);
  EXPECT_THAT(cluster.Settle({1, 2, 3}), IsEmpty());
  ASSERT_EQ(cluster.Writer(2).Write("after", 0, "x"), 0);
  EXPECT_THAT(cluster.Settle({1, 2, 3}), IsEmpty());
}

TEST(SidecarSessionTest, NodeRestartsAndServesWhileTheServerIsAway) {
  SessionCluster cluster;
  StartThree(cluster);
  ASSERT_EQ(cluster.Writer(2).Write("a", 0, "1"), 0);
  ASSERT_THAT(cluster.Settle({1, 2, 3}), IsEmpty());
  cluster.StopNode(2, true);
  // Drained: the token is free at once, not after the lease.
  ASSERT_EQ(cluster.Writer(1).Append("a", "2"), 0);
  cluster.Proxy(2, "reset");
  cluster.StartNode(2);
  EXPECT_EQ(cluster.Writer(2).Read("a"), "1");
  ASSERT_EQ(cluster.Writer(2).Write("b", 0, "alone"), 0);
  cluster.StopNode(2, false);
  cluster.Proxy(2, "mend");
  cluster.StartNode(2);
  EXPECT_THAT(cluster.Settle({1, 2, 3}), IsEmpty());
  EXPECT_EQ(cluster.Writer(3).Read("b"), "alone");
}

// ---- joining -----------------------------------------------------------------------------------

void WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::trunc | std::ios::binary) << bytes;
}

// One of everything that an import has to carry.
void MakeSite(const std::string& root) {
  namespace fs = std::filesystem;
  fs::create_directories(root + "/assets/img");
  WriteFile(root + "/index.html", "<h1>hello</h1>");
  WriteFile(root + "/assets/style.css", std::string(300'000, 'c'));
  WriteFile(root + "/assets/img/logo", std::string(3'000'000, 'l') + "end");
  WriteFile(root + "/empty", "");
  fs::create_hard_link(root + "/index.html", root + "/assets/home.html");
  fs::create_symlink("../index.html", root + "/assets/link");
  ASSERT_EQ(mkfifo((root + "/pipe").c_str(), 0640), 0);
  sidecar::UniqueFd sparse(open((root + "/sparse").c_str(), O_CREAT | O_WRONLY, 0600));
  ASSERT_EQ(pwrite(sparse.get(), "middle", 6, 1 << 20), 6);
  ASSERT_EQ(ftruncate(sparse.get(), 4 << 20), 0);
  sidecar::UniqueFd hole(open((root + "/hole").c_str(), O_CREAT | O_WRONLY, 0600));
  ASSERT_EQ(ftruncate(hole.get(), 1 << 20), 0);
  ASSERT_EQ(setxattr((root + "/index.html").c_str(), "user.colour", "red", 3, 0), 0);
  ASSERT_EQ(chmod((root + "/assets/style.css").c_str(), 04751), 0);
  ASSERT_EQ(chown((root + "/empty").c_str(), 1234, 2345), 0);
  ASSERT_EQ(chmod(root.c_str(), 0751), 0);
  const struct timespec old[2] = {{1'000'000'000, 1}, {1'111'111'111, 123'456'789}};
  ASSERT_EQ(utimensat(AT_FDCWD, (root + "/assets/img").c_str(), old, 0), 0);
  ASSERT_EQ(utimensat(AT_FDCWD, root.c_str(), old, 0), 0);
}

void CopyTree(const std::string& from, const std::string& to) {
  // cp -a keeps what has to be the same for an adoption.
  ASSERT_EQ(std::system(absl::StrCat("cp -a --sparse=always '", from, "' '", to, "'").c_str()), 0);
}

std::vector<std::string> SetAside(const std::string& parent) {
  std::vector<std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator(parent)) {
    if (entry.path().filename().string().find("set-aside") == std::string::npos) continue;
    for (const auto& below : std::filesystem::recursive_directory_iterator(entry.path())) {
      if (!below.is_directory()) found.push_back(below.path().filename());
    }
  }
  return found;
}

TEST(SidecarJoinTest, ContentOfTheFirstReplicaIsImported) {
  SessionCluster cluster;
  MakeSite(cluster.Lower(1));
  const auto before = tests::DigestTree(cluster.Lower(1));
  cluster.CreateCollection();
  cluster.AddReplica(1);
  ASSERT_THAT(cluster.Settle({1}), IsEmpty());
  cluster.AddReplica(2);
  cluster.AddReplica(3);
  EXPECT_THAT(cluster.Settle({1, 2, 3}), IsEmpty());
  EXPECT_EQ(tests::DigestTree(cluster.Lower(1)), before);
}

TEST(SidecarJoinTest, NodesWithTheSameContentJoinAtOnce) {
  SessionCluster cluster;
  MakeSite(cluster.Lower(1));
  const auto before = tests::DigestTree(cluster.Lower(1));
  for (int node = 2; node <= 3; ++node) CopyTree(cluster.Lower(1), cluster.Lower(node));
  WriteFile(cluster.Lower(3) + "/assets/only3", "not in the collection");
  const std::string kept = cluster.Lower(2) + "/assets/img/logo";
  struct stat was, is;
  ASSERT_EQ(stat(kept.c_str(), &was), 0);
  cluster.CreateCollection();
  for (int node = 1; node <= 3; ++node) cluster.AddReplica(node);
  EXPECT_THAT(cluster.Settle({1, 2, 3}), IsEmpty());
  // Whoever imported, the others kept their files and nothing was lost.
  ASSERT_EQ(stat(kept.c_str(), &is), 0);
  EXPECT_EQ(is.st_ino, was.st_ino);
  const bool imported = std::filesystem::exists(cluster.Lower(1) + "/assets/only3");
  const std::vector<std::string> expected =
      imported ? std::vector<std::string>() : std::vector<std::string>{"only3"};
  EXPECT_EQ(SetAside(cluster.dir() + "/node3"), expected);
  EXPECT_THAT(SetAside(cluster.dir() + "/node2"), IsEmpty());
  if (!imported) {
    EXPECT_EQ(tests::DigestTree(cluster.Lower(1)), before);
  }
}

TEST(SidecarJoinTest, LateJoinerGetsASnapshotWhileOthersWrite) {
  SessionCluster cluster;
  MakeSite(cluster.Lower(1));
  cluster.CreateCollection();
  cluster.AddReplica(1);
  cluster.AddReplica(2);
  ASSERT_THAT(cluster.Settle({1, 2}), IsEmpty());
  // Content makes it fetch a snapshot instead of the journal from its beginning.
  std::filesystem::create_directories(cluster.Lower(3));
  WriteFile(cluster.Lower(3) + "/index.html", "another");
  std::atomic<bool> stop = false;
  std::atomic<int> failed = 0;
  std::vector<std::thread> load;
  for (int node = 1; node <= 2; ++node) {
    load.emplace_back([&, node] {
      ScriptedWriter writer = cluster.Writer(node);
      for (int i = 0; !stop; ++i) {
        const std::string name = absl::StrCat("n", node, "-", i % 20);
        if (i % 7 == 6) {
          (void)writer.Unlink(name);
        } else if (writer.Append(name, std::string(5000, 'a' + i % 26)) != 0) {
          ++failed;
        }
      }
    });
  }
  cluster.AddReplica(3);
  EXPECT_TRUE(cluster.AwaitPhase(3, Connection::Phase::kConnected));
  stop = true;
  for (std::thread& thread : load) thread.join();
  EXPECT_EQ(failed, 0);
  EXPECT_THAT(cluster.Settle({1, 2, 3}), IsEmpty());
  EXPECT_THAT(SetAside(cluster.dir() + "/node3"), testing::ElementsAre("index.html"));
}

TEST(SidecarJoinTest, AdoptionShipsNoContent) {
  constexpr size_t kContent = 16 << 20;
  SessionCluster cluster;
  MakeSite(cluster.Lower(1));
  std::string noise(kContent / 64, '\0');  // does not compress
  std::mt19937_64 random(1);
  for (int i = 0; i < 64; ++i) {
    for (char& byte : noise) byte = static_cast<char>(random());
    WriteFile(cluster.Lower(1) + "/noise" + std::to_string(i), noise);
  }
  CopyTree(cluster.Lower(1), cluster.Lower(3));
  cluster.CreateCollection();
  cluster.AddReplica(1);
  ASSERT_THAT(cluster.Settle({1}), IsEmpty());
  auto joined_with = [&](int node) {
    const uint64_t before = cluster.BytesFromServer(node);
    cluster.AddReplica(node);
    EXPECT_THAT(cluster.Settle({1, node}), IsEmpty());
    return cluster.BytesFromServer(node) - before;
  };
  EXPECT_GT(joined_with(2), kContent) << "the empty one gets it all";
  EXPECT_LT(joined_with(3), kContent / 100) << "the other one has it";
  EXPECT_THAT(SetAside(cluster.dir() + "/node3"), IsEmpty());
}

TEST(SidecarJoinTest, ReplicaRemovedAndAddedAgainAdoptsWhatItHas) {
  SessionCluster cluster;
  StartThree(cluster);
  ASSERT_EQ(cluster.Writer(1).Write("same", 0, "same"), 0);
  ASSERT_EQ(cluster.Writer(2).Write("changes", 0, "before"), 0);
  ASSERT_THAT(cluster.Settle({1, 2, 3}), IsEmpty());
  cluster.RemoveReplica(2);
  // Nobody watches the directory now.
  WriteFile(cluster.Lower(2) + "/changes", "by hand");
  WriteFile(cluster.Lower(2) + "/new", "by hand");
  ASSERT_EQ(cluster.Writer(1).Write("later", 0, "later"), 0);
  cluster.AddReplica(2);
  EXPECT_THAT(cluster.Settle({1, 2, 3}), IsEmpty());
  EXPECT_THAT(SetAside(cluster.dir() + "/node2"), testing::UnorderedElementsAre("changes", "new"));
  // Its numbers go on.
  ASSERT_EQ(cluster.Writer(2).Append("changes", " after"), 0);
  EXPECT_THAT(cluster.Settle({1, 2, 3}), IsEmpty());
  EXPECT_EQ(cluster.Writer(1).Read("changes"), "before after");
}

TEST(SidecarJoinTest, NodeWhoseDatabaseWasLostSaysSoAndWritesNothing) {
  SessionCluster cluster;
  StartThree(cluster);
  ASSERT_EQ(cluster.Writer(2).Write("a", 0, "1"), 0);
  ASSERT_THAT(cluster.Settle({1, 2, 3}), IsEmpty());
  cluster.StopNode(2, true);
  std::filesystem::remove_all(cluster.dir() + "/node2/data/replicas");
  cluster.StartNode(2);
  EXPECT_TRUE(Eventually([&] {
    return std::string(cluster.Status(2).error.message()).find("remove the file") !=
           std::string::npos;
  })) << cluster.Status(2).error;
  EXPECT_EQ(cluster.Status(2).phase, Connection::Phase::kJoining);
  cluster.StopNode(2, true);
  std::filesystem::remove(cluster.dir() + "/node2/data/instance");
  cluster.StartNode(2);
  EXPECT_THAT(cluster.Settle({1, 2, 3}), IsEmpty());
  ASSERT_EQ(cluster.Writer(2).Append("a", "2"), 0);
  EXPECT_THAT(cluster.Settle({1, 2, 3}), IsEmpty());
  EXPECT_EQ(cluster.Writer(1).Read("a"), "12");
}

}  // namespace
}  // namespace intermezzo
