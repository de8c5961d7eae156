// Threads for the work of opening a session, in which onnxruntime lends none of its own.
#pragma once

#include <algorithm>
#include <cstddef>
#include <system_error>
#include <thread>
#include <vector>

namespace ptune {

constexpr size_t kPackedByAThread = size_t{1} << 20;  // bytes of weights or more; fewer are not worth a thread

// Some work on `all` things, a share of them for each core: work(from, to). No share is smaller than `least`.
template <typename Work>
void in_shares(size_t all, size_t least, const Work& work) {
  const size_t cores = std::max(1u, std::thread::hardware_concurrency());
  const size_t number = std::max<size_t>(1, std::min(cores, all / std::max<size_t>(least, 1)));
  const auto end_of = [&](size_t share) { return all * (share + 1) / number; };
  std::vector<std::thread> threads;
  size_t done = end_of(0);  // the first share is this thread's, and so are those that get no thread
  try {
    for (size_t share = 1; share < number; ++share, done = end_of(share - 1))
      threads.emplace_back([&work, from = done, to = end_of(share)] { work(from, to); });
  } catch (const std::system_error&) {
  }
  work(0, end_of(0));
  if (done < all) work(done, all);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace ptune
