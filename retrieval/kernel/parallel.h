// A loop over queries, shared out to threads that live for the call.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace kernel {

// Calls body(i) for i in 0 .. count - 1. threads == 1 stays on the calling thread. Rethrows the first exception.
template <class Body>
void parallel_for(int64_t count, int threads, const Body& body) {
    const int64_t workers = std::min<int64_t>(std::max(threads, 1), count);
    if (workers <= 1) {
        for (int64_t i = 0; i < count; ++i) body(i);
        return;
    }
    std::atomic<int64_t> next{0};
    std::exception_ptr failure;
    std::mutex mutex;
    const auto work = [&] {
        try {
            for (int64_t i; (i = next.fetch_add(1)) < count;) body(i);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(mutex);
            if (!failure) failure = std::current_exception();
            next = count;
        }
    };
    std::vector<std::thread> helpers;
    try {
        for (int64_t t = 1; t < workers; ++t) helpers.emplace_back(work);
    } catch (...) {  // the system has no more threads: go on with those there are
    }
    work();
    for (std::thread& helper : helpers) helper.join();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace kernel
