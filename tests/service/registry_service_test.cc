// RegistryService over gRPC: streams of replicas, names taken, collections with their journals.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "tests/support/eventually.h"
#include "tests/support/token_cluster.h"

namespace intermezzo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using tests::TokenCluster;

class ReplicaWatch {
 public:
  ReplicaWatch(TokenCluster& cluster, const std::string& node, const std::string& instance) {
    registry::v1::WatchReplicasRequest request;
    request.set_node(node);
    request.set_instance(instance);
    TokenCluster::Bound(context_);
    reader_ = cluster.registry().WatchReplicas(&context_, request);
  }
  ~ReplicaWatch() { context_.TryCancel(); }
  bool Next(registry::v1::WatchReplicasResponse& list) { return reader_->Read(&list); }
  grpc::Status Finish() { return reader_->Finish(); }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<registry::v1::WatchReplicasResponse>> reader_;
};

bool Connected(TokenCluster& cluster, const std::string& node) {
  registry::v1::ListNodesResponse response;
  grpc::ClientContext context;
  TokenCluster::Bound(context);
  EXPECT_TRUE(cluster.registry().ListNodes(&context, {}, &response).ok());
  for (const auto& one : response.nodes()) {
    if (one.name() == node) return one.connected();
  }
  return false;
}

TEST(RegistryServiceTest, WatchStreamsTheListAtOnceAndAfterEachChange) {
  TokenCluster cluster;
  ASSERT_TRUE(cluster.Create("www").ok());
  ASSERT_TRUE(cluster.Register("a", "a-1").ok());
  registry::v1::WatchReplicasResponse list;
  {
    ReplicaWatch watch(cluster, "a", "a-1");
    ASSERT_TRUE(watch.Next(list));
    EXPECT_EQ(list.replicas_size(), 0);
    EXPECT_TRUE(Connected(cluster, "a"));
    ASSERT_TRUE(cluster.AddReplica("www", "a", "/lower", "/mnt/www").ok());
    ASSERT_TRUE(watch.Next(list));
    ASSERT_EQ(list.replicas_size(), 1);
    EXPECT_EQ(list.replicas(0).mount_dir(), "/mnt/www");
    ASSERT_TRUE(cluster.Delete("www", true).ok());
    ASSERT_TRUE(watch.Next(list));
    EXPECT_EQ(list.replicas_size(), 0);
  }
  EXPECT_TRUE(tests::Eventually([&] { return !Connected(cluster, "a"); }));
  ReplicaWatch stranger(cluster, "a", "a-2");
  EXPECT_FALSE(stranger.Next(list));
  EXPECT_EQ(stranger.Finish().error_code(), grpc::FAILED_PRECONDITION);
}

TEST(RegistryServiceTest, TwoNodesWithOneName) {
  TokenCluster cluster(absl::Milliseconds(100));
  uint32_t first = 0;
  ASSERT_TRUE(cluster.Register("a", "one", &first).ok());
  registry::v1::WatchReplicasResponse list;
  {
    ReplicaWatch watch(cluster, "a", "one");
    ASSERT_TRUE(watch.Next(list));
    const grpc::Status refused = cluster.Register("a", "two");
    EXPECT_EQ(refused.error_code(), grpc::ALREADY_EXISTS);
    EXPECT_THAT(refused.error_message(), HasSubstr("one"));
    EXPECT_THAT(refused.error_message(), HasSubstr("two"));
  }
  // Three leases after its stream has ended the name is free, for a new ordinal.
  uint32_t second = 0;
  EXPECT_TRUE(tests::Eventually([&] { return cluster.Register("a", "two", &second).ok(); }));
  EXPECT_GT(second, first);
  EXPECT_EQ(cluster.Register("b", "b-1", nullptr, 99).error_code(), grpc::FAILED_PRECONDITION);
}

TEST(RegistryServiceTest, CollectionIsThereOnlyWithItsJournal) {
  TokenCluster cluster;
  cluster.journal().FailWith(grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(cluster.Create("www", "r1").error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_FALSE(cluster.journal().Has("www"));
  cluster.journal().FailWith(grpc::OK);
  registry::v1::Collection collection;
  ASSERT_TRUE(cluster.Create("www", "r1", &collection).ok());
  EXPECT_EQ(collection.uid(), 1u);
  cluster.Restart();
  ASSERT_TRUE(cluster.Create("www", "r1", &collection).ok());
  EXPECT_EQ(collection.uid(), 1u);
  EXPECT_EQ(cluster.Create("www", "r2").error_code(), grpc::ALREADY_EXISTS);
  ASSERT_TRUE(cluster.Delete("www", false, "r3").ok());
  ASSERT_TRUE(cluster.Delete("www", false, "r3").ok());
  EXPECT_FALSE(cluster.journal().Has("www"));
  EXPECT_THAT(cluster.journal().log(), ElementsAre("create www 1", "delete www"));
}

TEST(RegistryServiceTest, EpochsGoOnInACollectionOfTheSameName) {
  TokenCluster cluster;
  ASSERT_TRUE(cluster.Create("www").ok());
  cluster.Join("www", "a");
  token::v1::AcquireResponse grant;
  ASSERT_TRUE(cluster.Acquire("www", "a", &grant).ok());
  ASSERT_TRUE(cluster.Delete("www", true).ok());
  EXPECT_EQ(cluster.Acquire("www", "a", &grant).error_code(), grpc::NOT_FOUND);
  cluster.Restart();
  ASSERT_TRUE(cluster.Create("www").ok());
  cluster.Join("www", "a");
  ASSERT_TRUE(cluster.Acquire("www", "a", &grant).ok());
  EXPECT_EQ(grant.epoch(), 2u);
}

TEST(RegistryServiceTest, BadConfigurationNamesTheField) {
  config::v1::TokenServiceConfig config;
  EXPECT_THAT(std::string(token::CheckTokenServiceConfig(config).message()), HasSubstr("data_dir"));
  config.set_data_dir("/x");
  EXPECT_THAT(std::string(token::CheckTokenServiceConfig(config).message()),
              HasSubstr("journal_address"));
  config.set_journal_address("127.0.0.1:1");
  EXPECT_TRUE(token::CheckTokenServiceConfig(config).ok());
  *config.mutable_lease() = ToProto(absl::Milliseconds(1));
  EXPECT_THAT(std::string(token::CheckTokenServiceConfig(config).message()), HasSubstr("lease"));
}

}  // namespace
}  // namespace intermezzo
