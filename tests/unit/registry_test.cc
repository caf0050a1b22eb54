// The registry with a fake journal and a fake clock.
#include "services/token-service/registry/registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>

#include "absl/strings/str_cat.h"
#include "services/common/types/numbers.h"
#include "services/token-service/registry/replica_dirs.h"
#include "tests/support/eventually.h"
#include "tests/support/temp_dir.h"

namespace intermezzo::token {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Answers at once, as it is told.
class FakeControl final : public JournalControl {
 public:
  void Fence(const std::string&, Epoch, std::function<void(const FenceResult&)> done) override {
    done(FenceResult{});
  }
  void CreateJournal(const std::string& name, uint64_t uid, absl::Duration, Done done) override {
    calls.push_back(absl::StrCat("create ", name, " ", uid));
    done(answer);
  }
  void DeleteJournal(const std::string& name, Done done) override {
    calls.push_back(absl::StrCat("delete ", name));
    done(answer);
  }
  absl::Status answer;
  std::vector<std::string> calls;
};

class FakeListener final : public RegistryListener {
 public:
  void CollectionReady(const std::string& name, uint64_t uid, Epoch floor) override {
    calls.push_back(absl::StrCat("ready ", name, " ", uid, " ", floor.value()));
  }
  Epoch CollectionGone(const std::string& name) override {
    calls.push_back(absl::StrCat("gone ", name));
    return Epoch(5);
  }
  void ReplicaGone(const std::string& collection, const std::string& node) override {
    calls.push_back(absl::StrCat("replica gone ", collection, " ", node));
  }
  std::vector<std::string> calls;
};

class RegistryTest : public ::testing::Test {
 protected:
  RegistryTest() { Restart(); }

  void Restart() {
    registry_.reset();
    store_.reset();
    auto store = TokenStore::Open(dir_.path() + "/db");
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    auto contents = store_->Load();
    ASSERT_TRUE(contents.ok());
    RegistryOptions options;
    options.remembered_requests = 4;
    options.now = [this] { return now_; };
    registry_ =
        std::make_unique<Registry>(options, *contents, *store_, journal_, listener_, nullptr);
  }

  // Makes a change and waits for its answer.
  template <typename Response, typename Request>
  absl::StatusOr<Response> Do(void (Registry::*change)(const Request&, Registry::Done<Response>),
                              const Request& request) {
    std::promise<absl::StatusOr<Response>> promise;
    (registry_.get()->*change)(
        request, [&](const absl::StatusOr<Response>& result) { promise.set_value(result); });
    return promise.get_future().get();
  }
  absl::StatusOr<uint32_t> Register(const std::string& name, const std::string& instance,
                                    uint32_t version = kProtocolVersion) {
    registry::v1::RegisterNodeRequest request;
    request.mutable_node()->set_name(name);
    request.mutable_node()->set_instance(instance);
    request.mutable_node()->set_address("host:1");
    request.set_protocol_version(version);
    auto response = Do(&Registry::RegisterNode, request);
    if (!response.ok()) return response.status();
    return response->ordinal();
  }
  absl::StatusOr<registry::v1::CreateCollectionResponse> Create(const std::string& name,
                                                                const std::string& id = "") {
    registry::v1::CreateCollectionRequest request;
    request.mutable_collection()->set_name(name);
    request.set_request_id(id);
    return Do(&Registry::CreateCollection, request);
  }
  absl::Status Delete(const std::string& name, bool force = false, const std::string& id = "") {
    registry::v1::DeleteCollectionRequest request;
    request.set_name(name);
    request.set_force(force);
    request.set_request_id(id);
    return Do(&Registry::DeleteCollection, request).status();
  }
  absl::Status Add(const std::string& collection, const std::string& node,
                   const std::string& lower = "", const std::string& mount = "",
                   const std::string& id = "") {
    registry::v1::AddReplicaRequest request;
    request.mutable_replica()->set_collection(collection);
    request.mutable_replica()->set_node(node);
    request.mutable_replica()->set_lower_dir(lower);
    request.mutable_replica()->set_mount_dir(mount);
    request.set_request_id(id);
    return Do(&Registry::AddReplica, request).status();
  }
  absl::Status Remove(const std::string& collection, const std::string& node,
                      const std::string& id = "") {
    registry::v1::RemoveReplicaRequest request;
    request.set_collection(collection);
    request.set_node(node);
    request.set_request_id(id);
    return Do(&Registry::RemoveReplica, request).status();
  }

  const tests::TempDir dir_;
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  FakeControl journal_;
  FakeListener listener_;
  std::unique_ptr<TokenStore> store_;
  std::unique_ptr<Registry> registry_;
};

TEST_F(RegistryTest, OrdinalsAreForIncarnationsAndNeverReused) {
  EXPECT_EQ(*Register("a", "i1"), 1u);
  EXPECT_EQ(*Register("b", "i2"), 2u);
  EXPECT_EQ(*Register("a", "i1"), 1u);
  now_ += absl::Seconds(30);
  EXPECT_EQ(*Register("a", "i3"), 3u);
  Restart();
  EXPECT_EQ(*Register("a", "i3"), 3u);
  now_ += absl::Seconds(30);
  EXPECT_EQ(*Register("a", "i4"), 4u);
  now_ += absl::Seconds(30);
  EXPECT_EQ(*Register("a", "i1"), 1u);  // the first incarnation is back
}

TEST_F(RegistryTest, TwoNodesWithOneName) {
  ASSERT_TRUE(Register("a", "i1").ok());
  const absl::Status refused = Register("a", "i2").status();
  EXPECT_TRUE(absl::IsAlreadyExists(refused));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("i1"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("i2"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("30s"));

  // An open watch stream is a sign of life, however long.
  auto watch = registry_->Watch(Holder{"a", "i1"}, [] {});
  ASSERT_TRUE(watch.ok());
  now_ += absl::Hours(1);
  EXPECT_TRUE(absl::IsAlreadyExists(Register("a", "i2").status()));
  registry_->Unwatch(*watch);
  now_ += absl::Seconds(29);
  EXPECT_TRUE(absl::IsAlreadyExists(Register("a", "i2").status()));
  // So is a call.
  ASSERT_TRUE(registry_->CheckNode(Holder{"a", "i1"}).ok());
  now_ += absl::Seconds(29);
  EXPECT_TRUE(absl::IsAlreadyExists(Register("a", "i2").status()));
  now_ += absl::Seconds(1);
  EXPECT_EQ(*Register("a", "i2"), 2u);
  EXPECT_TRUE(absl::IsFailedPrecondition(registry_->CheckNode(Holder{"a", "i1"})));
  EXPECT_TRUE(absl::IsFailedPrecondition(registry_->Watch(Holder{"a", "i1"}, [] {}).status()));

  // Nobody knows how long ago it was seen before a restart.
  Restart();
  EXPECT_TRUE(absl::IsAlreadyExists(Register("a", "i3").status()));
}

TEST_F(RegistryTest, RefusesBadNodes) {
  EXPECT_TRUE(absl::IsFailedPrecondition(Register("a", "i1", kProtocolVersion + 1).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Register("A", "i1").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Register("", "i1").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Register("a", "").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Register("a", "i/1").status()));
  EXPECT_EQ(*Register("a", "i1"), 1u);  // none of them took a number
}

TEST_F(RegistryTest, CreatesACollectionWithItsJournal) {
  auto created = Create("www");
  ASSERT_TRUE(created.ok()) << created.status();
  EXPECT_EQ(created->collection().uid(), 1u);
  EXPECT_EQ(created->collection().offline_writes(), registry::v1::OFFLINE_WRITES_ALLOW);
  EXPECT_THAT(journal_.calls, ElementsAre("create www 1"));
  EXPECT_THAT(listener_.calls, ElementsAre("ready www 1 0"));
  EXPECT_TRUE(absl::IsAlreadyExists(Create("www").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Create("WWW").status()));
  Restart();
  EXPECT_EQ(registry_->GetCollection("www")->uid(), 1u);
}

TEST_F(RegistryTest, CreationThatWasCutOffIsTakenUpWithItsUid) {
  journal_.answer = absl::UnavailableError("down");
  EXPECT_TRUE(absl::IsUnavailable(Create("www").status()));
  EXPECT_TRUE(absl::IsNotFound(registry_->GetCollection("www").status()));
  // Its journal is perhaps another's: it is not removed by name.
  EXPECT_TRUE(absl::IsNotFound(Delete("www")));
  Restart();
  journal_.answer = absl::OkStatus();
  EXPECT_EQ(Create("www")->collection().uid(), 1u);
  EXPECT_THAT(journal_.calls, ElementsAre("create www 1", "create www 1"));
}

TEST_F(RegistryTest, DeletionThatWasCutOffIsTakenUp) {
  ASSERT_TRUE(Create("www").ok());
  journal_.answer = absl::UnavailableError("down");
  EXPECT_TRUE(absl::IsUnavailable(Delete("www")));
  EXPECT_TRUE(absl::IsNotFound(registry_->GetCollection("www").status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(Create("www").status()));
  journal_.answer = absl::OkStatus();
  Restart();
  // The start has deleted it, so the next is another collection, above the epochs of the first.
  absl::StatusOr<registry::v1::CreateCollectionResponse> again;
  EXPECT_TRUE(tests::Eventually([&] { return (again = Create("www")).ok(); })) << again.status();
  EXPECT_EQ(again->collection().uid(), 2u);
}

TEST_F(RegistryTest, EpochsOfADeletedCollectionAreNotGivenAgain) {
  ASSERT_TRUE(Create("www").ok());
  ASSERT_TRUE(Delete("www").ok());
  Restart();
  ASSERT_TRUE(Create("www").ok());
  EXPECT_THAT(listener_.calls, ElementsAre("ready www 1 0", "gone www", "ready www 2 5"));
}

TEST_F(RegistryTest, DeletionNeedsForceWhereThereAreReplicas) {
  ASSERT_TRUE(Create("www").ok());
  ASSERT_TRUE(Register("a", "i1").ok());
  ASSERT_TRUE(Add("www", "a").ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Delete("www")));
  EXPECT_EQ(registry_->ReplicasOf("a").replicas_size(), 1);
  EXPECT_TRUE(Delete("www", true).ok());
  EXPECT_EQ(registry_->ReplicasOf("a").replicas_size(), 0);
  EXPECT_TRUE(absl::IsNotFound(Delete("www")));
}

TEST_F(RegistryTest, RequestIdsAreRememberedAndBounded) {
  ASSERT_TRUE(Create("one", "r1").ok());
  Restart();
  EXPECT_EQ(Create("one", "r1")->collection().uid(), 1u);
  EXPECT_TRUE(absl::IsInvalidArgument(Create("other", "r1").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Delete("one", false, "r1")));
  EXPECT_TRUE(absl::IsInvalidArgument(Create("two", std::string(129, 'x')).status()));
  ASSERT_TRUE(Delete("one", false, "r2").ok());
  EXPECT_TRUE(Delete("one", false, "r2").ok());
  for (int i = 3; i <= 5; ++i) {
    ASSERT_TRUE(Create(absl::StrCat("c", i), absl::StrCat("r", i)).ok());
  }
  // Four are remembered: the first one is forgotten, and its request is a new one.
  EXPECT_EQ(Create("one", "r1")->collection().uid(), 5u);
}

TEST_F(RegistryTest, ReplicasAreCheckedAndTold) {
  ASSERT_TRUE(Create("www").ok());
  ASSERT_TRUE(Create("shop").ok());
  ASSERT_TRUE(Register("a", "i1").ok());
  int told = 0;
  auto watch = registry_->Watch(Holder{"a", "i1"}, [&] { ++told; });
  ASSERT_TRUE(watch.ok());

  EXPECT_TRUE(absl::IsNotFound(Add("nothing", "a")));
  const absl::Status unknown = Add("www", "zz");
  EXPECT_TRUE(absl::IsNotFound(unknown));
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("there are: a"));
  EXPECT_TRUE(absl::IsInvalidArgument(Add("www", "a", "relative")));
  EXPECT_TRUE(absl::IsInvalidArgument(Add("www", "a", "/srv/www", "/srv/www/mnt")));
  EXPECT_EQ(told, 0);

  ASSERT_TRUE(Add("www", "a", "/lower/www", "/mnt/www").ok());
  EXPECT_EQ(told, 1);
  EXPECT_TRUE(Add("www", "a", "/lower/www", "/mnt/www").ok());
  EXPECT_TRUE(absl::IsAlreadyExists(Add("www", "a", "/lower/other", "/mnt/www")));
  EXPECT_TRUE(absl::IsInvalidArgument(Add("shop", "a", "/lower/www/shop", "/mnt/shop")));
  EXPECT_TRUE(absl::IsInvalidArgument(Add("shop", "a", "/lower/shop", "/mnt/www")));
  EXPECT_EQ(told, 1);
  Restart();
  const auto replicas = registry_->ReplicasOf("a");
  ASSERT_EQ(replicas.replicas_size(), 1);
  EXPECT_EQ(replicas.replicas(0).collection_uid(), 1u);
  EXPECT_EQ(replicas.replicas(0).lower_dir(), "/lower/www");

  EXPECT_TRUE(registry_->CheckHolder("www", Holder{"a", "i1"}).ok());
  ASSERT_TRUE(Remove("www", "a", "r1").ok());
  EXPECT_TRUE(Remove("www", "a", "r1").ok());
  EXPECT_TRUE(absl::IsNotFound(Remove("www", "a")));
  EXPECT_TRUE(absl::IsPermissionDenied(registry_->CheckHolder("www", Holder{"a", "i1"})));
  EXPECT_EQ(listener_.calls.back(), "replica gone www a");
}

TEST_F(RegistryTest, ListsArePaged) {
  for (const char* name : {"c", "a", "d", "b"}) ASSERT_TRUE(Register(name, "i").ok());
  for (const char* name : {"c", "a", "d", "b"}) {
    ASSERT_TRUE(Create(name).ok());
    ASSERT_TRUE(Add(name, "a").ok());
    ASSERT_TRUE(Add(name, name).ok());
  }
  registry::v1::ListReplicasRequest request;
  request.set_page_size(2);
  std::vector<std::string> seen;
  do {
    auto page = registry_->ListReplicas(request);
    ASSERT_TRUE(page.ok());
    ASSERT_LE(page->replicas_size(), 2);
    for (const auto& replica : page->replicas()) {
      seen.push_back(absl::StrCat(replica.collection(), "/", replica.node()));
    }
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  EXPECT_THAT(seen, ElementsAre("a/a", "b/a", "b/b", "c/a", "c/c", "d/a", "d/d"));

  request.set_collection("b");
  EXPECT_EQ(registry_->ListReplicas(request)->replicas_size(), 2);
  request.set_collection("nothing");
  EXPECT_TRUE(absl::IsNotFound(registry_->ListReplicas(request).status()));
  registry::v1::ListNodesRequest bad;
  bad.set_page_size(-1);
  EXPECT_TRUE(absl::IsInvalidArgument(registry_->ListNodes(bad).status()));
  bad.set_page_size(1);
  bad.set_page_token("%");
  EXPECT_TRUE(absl::IsInvalidArgument(registry_->ListNodes(bad).status()));
  bad.set_page_token("");
  EXPECT_EQ(registry_->ListNodes(bad)->nodes(0).name(), "a");
}

TEST(ReplicaDirsTest, AbsoluteShortestAndApart) {
  EXPECT_TRUE(CheckReplicaDirs("", "").ok());
  EXPECT_TRUE(CheckReplicaDirs("/a", "/ab").ok());
  for (const char* bad : {"a", "/", "/a/", "/a//b", "/a/./b", "/a/../b", "/.."}) {
    EXPECT_TRUE(absl::IsInvalidArgument(CheckReplicaDirs(bad, ""))) << bad;
    EXPECT_TRUE(absl::IsInvalidArgument(CheckReplicaDirs("", bad))) << bad;
  }
  EXPECT_FALSE(CheckReplicaDirs("/" + std::string(256, 'a'), "").ok());
  EXPECT_FALSE(CheckReplicaDirs(std::string("/a\0b", 4), "").ok());
  EXPECT_FALSE(CheckReplicaDirs("/a", "/a").ok());
  EXPECT_FALSE(CheckReplicaDirs("/a/b", "/a").ok());
  EXPECT_FALSE(CheckReplicaDirs("/a", "/a/b").ok());
}

}  // namespace
}  // namespace intermezzo::token
