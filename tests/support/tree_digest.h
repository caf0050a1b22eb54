// Two directory trees compared wholly: names, kinds, content, holes, modes, owners, times to the
// nanosecond, extended attributes and ACLs, hard-link groups, symlink targets, device numbers.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace intermezzo::tests {

struct TreeDigestOptions {
  // Where holes lie. Off where the trees are on file systems of other block sizes.
  bool holes = true;
  bool mtimes = true;
};

// One line for each object below `root` ("." is the root itself), by path: everything that counts
// of it. Equal maps are equal trees.
std::map<std::string, std::string> DigestTree(const std::string& root,
                                              const TreeDigestOptions& options = {});

// What differs, one line each, at most `limit`; empty: equal.
std::vector<std::string> CompareTrees(const std::string& a, const std::string& b,
                                      const TreeDigestOptions& options = {}, size_t limit = 20);

}  // namespace intermezzo::tests
