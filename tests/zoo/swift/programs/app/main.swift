// What an app does, from the command line: CATALOG MODELS pull|cancel|status|verify|remove|prune|digest ENTRY [words]
// Or answers planner cases: vectors FILE
import Foundation

func report(_ json: [String: Any]) throws {
    let data = try JSONSerialization.data(withJSONObject: json, options: [.sortedKeys])
    print(String(decoding: data, as: UTF8.self))
}

/// The last progress that was told, from any thread.
final class Last: @unchecked Sendable {
    private let lock = NSLock()
    private var kept = ZooProgress(arrived: 0, total: 0)
    private var most: Int64 = 0

    func set(_ progress: ZooProgress) {
        lock.lock()
        kept = progress
        most = max(most, progress.arrived)
        lock.unlock()
    }

    var json: [Int64] {
        lock.lock()
        defer { lock.unlock() }
        return [kept.arrived, kept.total, most]
    }
}

func kind(_ action: ZooAction) -> String {
    switch action {
    case .keep: return "keep"
    case .fetch: return "fetch"
    case .link: return "link"
    case .delete: return "delete"
    }
}

func paths(_ actions: [ZooAction]) -> [String: [String]] {
    Dictionary(grouping: actions, by: kind).mapValues { $0.map(\.path) }
}

let words = CommandLine.arguments
do {
    if words[1] == "vectors" {
        try answerCases(in: words[2])
        exit(0)
    }
    let catalog = try ZooCatalog.decode(Data(contentsOf: URL(fileURLWithPath: words[1])))
    let token = ProcessInfo.processInfo.environment["TEST_TOKEN"]
    let downloader = ZooDownloader(token: token, attempts: 3)
    let store = ZooStore(directory: URL(fileURLWithPath: words[2]), catalog: catalog, downloader: downloader)
    let entry = catalog.entry(words[4])!
    let options = Array(words.dropFirst(5))
    switch words[3] {
    case "pull":
        let without = options.filter { $0 != "reading" && $0 != "all" }
        let selection: ZooSelection? =
            options.contains("all") ? .everything : without.isEmpty ? nil : ZooSelection(without: without)
        let last = Last()
        let plan = try await store.pull(entry, selection: selection, reading: options.contains("reading")) {
            last.set($0)
        }
        try report(["actions": paths(plan.actions), "bytes": plan.bytesToFetch, "progress": last.json])
    case "cancel":
        let pulling = Task { try await store.pull(entry) }
        try await Task.sleep(nanoseconds: 700_000_000)
        pulling.cancel()
        do {
            _ = try await pulling.value
            try report(["cancelled": false])
        } catch is CancellationError {
            try report(["cancelled": true])
        }
    case "status", "verify":
        let status = try store.status(of: entry, reading: words[3] == "verify")
        try report([
            "step": "\(status.step)", "findings": status.findings.map { "\($0.path): \($0.problem.rawValue)" },
            "broken": status.brokenModels, "orphans": status.orphans, "absent": status.mustBeAbsent,
        ])
    case "remove": try report(["actions": paths(try store.remove(entry).actions)])
    case "prune": try report(["actions": paths(try store.deleteOrphans(in: store.folder(of: entry)))])
    case "digest":
        // With the portable code, whatever this system has.
        var hasher = ZooPortableSHA256()
        for size in options.compactMap({ Int($0) }) {
            (0..<size).map { UInt8(truncatingIfNeeded: $0) }.withUnsafeBytes { hasher.update($0) }
        }
        print(hasher.digest().map { String($0, radix: 16) }.joined(separator: ","))
    default: print("unknown command")
    }
} catch {
    FileHandle.standardError.write(Data("\(error)\n".utf8))
    exit(1)
}
