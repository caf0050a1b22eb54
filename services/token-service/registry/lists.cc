// Registry: reading, paged. A page token is the key of the last row shown, so a page is right also
// where rows came and went since the one before.
#include <limits>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "services/token-service/registry/registry.h"

namespace intermezzo::token {
namespace {

constexpr int kDefaultPage = 100;
constexpr int kLargestPage = 1000;

struct Page {
  int size = kDefaultPage;
  // Rows after this key.
  std::string after;
};

template <typename Request>
absl::StatusOr<Page> ParsePage(const Request& request) {
  Page page;
  if (request.page_size() < 0) {
    return absl::InvalidArgumentError("page_size must not be negative");
  }
  if (request.page_size() > 0) page.size = std::min(request.page_size(), kLargestPage);
  if (!absl::WebSafeBase64Unescape(request.page_token(), &page.after) ||
      (page.after.empty() && !request.page_token().empty())) {
    return absl::InvalidArgumentError("page_token is not one of this list");
  }
  return page;
}

// Appends rows from `it` on until the page is full. `add` returns false for a row that is not
// shown.
template <typename Iterator, typename Key, typename Add>
std::string FillPage(int size, Iterator it, Iterator end, Key key, Add add) {
  std::string last;
  for (int shown = 0; it != end; ++it) {
    if (shown == size) return absl::WebSafeBase64Escape(last);
    if (!add(it->second)) continue;
    last = key(it->first);
    ++shown;
  }
  return "";
}

std::string SameKey(const std::string& key) { return key; }

}  // namespace

absl::StatusOr<registry::v1::Collection> Registry::GetCollection(const std::string& name) const {
  absl::MutexLock lock(&mu_);
  if (const CollectionState* state = Ready(name)) return state->row.collection();
  return absl::NotFoundError(
      absl::StrCat("no collection \"", absl::CHexEscape(name.substr(0, 80)), "\""));
}

absl::StatusOr<registry::v1::ListNodesResponse> Registry::ListNodes(
    const registry::v1::ListNodesRequest& request) const {
  absl::StatusOr<Page> page = ParsePage(request);
  if (!page.ok()) return page.status();
  registry::v1::ListNodesResponse response;
  absl::MutexLock lock(&mu_);
  response.set_next_page_token(FillPage(page->size, nodes_.upper_bound(page->after), nodes_.end(),
                                        SameKey, [&](const NodeState& state) {
                                          registry::v1::Node* node = response.add_nodes();
                                          *node = state.row;
                                          node->set_connected(state.watches > 0);
                                          return true;
                                        }));
  return response;
}

absl::StatusOr<registry::v1::ListCollectionsResponse> Registry::ListCollections(
    const registry::v1::ListCollectionsRequest& request) const {
  absl::StatusOr<Page> page = ParsePage(request);
  if (!page.ok()) return page.status();
  registry::v1::ListCollectionsResponse response;
  absl::MutexLock lock(&mu_);
  response.set_next_page_token(
      FillPage(page->size, collections_.upper_bound(page->after), collections_.end(), SameKey,
               [&](const CollectionState& state) {
                 if (state.row.phase() != storage::v1::COLLECTION_PHASE_READY) return false;
                 *response.add_collections() = state.row.collection();
                 return true;
               }));
  return response;
}

absl::StatusOr<registry::v1::ListReplicasResponse> Registry::ListReplicas(
    const registry::v1::ListReplicasRequest& request) const {
  absl::StatusOr<Page> page = ParsePage(request);
  if (!page.ok()) return page.status();
  ReplicaKey after;
  const size_t slash = page->after.find('/');
  if (slash != std::string::npos) {
    after = {page->after.substr(0, slash), page->after.substr(slash + 1)};
  } else if (!page->after.empty()) {
    return absl::InvalidArgumentError("page_token is not one of this list");
  }
  registry::v1::ListReplicasResponse response;
  absl::MutexLock lock(&mu_);
  auto begin = replicas_.upper_bound(after);
  auto end = replicas_.end();
  if (!request.collection().empty()) {
    if (Ready(request.collection()) == nullptr) {
      return absl::NotFoundError(absl::StrCat(
          "no collection \"", absl::CHexEscape(request.collection().substr(0, 80)), "\""));
    }
    begin = replicas_.upper_bound(std::max(after, ReplicaKey{request.collection(), ""}));
    // The first key after all of this collection's; names have no byte below '-'.
    end = replicas_.lower_bound({request.collection() + '\0', ""});
    if (begin == replicas_.end() || begin->first.first != request.collection()) begin = end;
  }
  response.set_next_page_token(FillPage(
      page->size, begin, end,
      [](const ReplicaKey& key) { return absl::StrCat(key.first, "/", key.second); },
      [&](const registry::v1::Replica& replica) {
        *response.add_replicas() = replica;
        return true;
      }));
  return response;
}

}  // namespace intermezzo::token
