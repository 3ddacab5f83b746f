import Foundation

/// How far a pull is.
public struct ZooProgress: Hashable, Sendable {
    /// Bytes that have arrived, those of an interrupted pull included.
    public let arrived: Int64
    /// Bytes of all files that travel.
    public let total: Int64
}

/// The app's models: a directory with one folder per model, and a catalog that says what belongs there.
///
/// Every byte is verified beside the folder before anything in the folder changes, a kill at any moment loses nothing
/// that arrived, and a folder is never wiped. `pull` and `remove` hold the folder's lock; the `zoo` command respects it.
public struct ZooStore: Sendable {
    public let directory: URL
    public let catalog: ZooCatalog
    private let downloader: ZooDownloader

    public init(directory: URL, catalog: ZooCatalog = .compiled, downloader: ZooDownloader = ZooDownloader()) {
        self.directory = directory
        self.catalog = catalog
        self.downloader = downloader
    }

    public func folder(of entry: ZooEntry) -> ZooFolder {
        ZooFolder(directory.appendingPathComponent(entry.folder))
    }

    /// Whether an entry is complete, judged by its own files. Quick; with `reading` every byte is read.
    public func status(of entry: ZooEntry, reading: Bool = false) throws -> ZooStatus {
        let folder = folder(of: entry)
        // What was installed may be older than what the catalog says.
        let installed = reading ? try folder.receipt().entries[entry.id]?.files ?? [] : []
        let sizes = reading ? Set(entry.files.map(\.bytes)).union(installed.map(\.bytes)) : []
        let state = try folder.state(sizes: sizes, reading: reading)
        return try ZooPlanner.status(of: entry, in: state, reading: reading)
    }

    /// What `pull` would do.
    ///
    /// - Parameters:
    ///   - selection: nil keeps the one the entry is installed with, or takes everything.
    ///   - reading: prove files by their bytes, also those that look untouched.
    public func plan(_ entry: ZooEntry, selection: ZooSelection? = nil, reading: Bool = false) throws -> ZooPullPlan {
        let folder = folder(of: entry)
        let state = try folder.state(sizes: Set(entry.files.map(\.bytes)), reading: reading)
        let installed = state.receipt.entries[entry.id].map { ZooSelection(only: $0.only, without: $0.without) }
        return try ZooPlanner.pull(
            entry, selection: selection ?? installed ?? .everything, siblings: catalog.entries, in: state)
    }

    /// Makes the folder hold exactly the selected files of an entry, and returns what was done.
    ///
    /// - Parameters:
    ///   - selection, reading: as in `plan`.
    ///   - jobs: files at once.
    ///   - progress: called from any thread, often.
    /// - Throws: `ZooError`; nothing in the folder has changed then, or what was changed is right. `CancellationError`.
    @discardableResult
    public func pull(
        _ entry: ZooEntry, selection: ZooSelection? = nil, reading: Bool = false, jobs: Int = 4,
        progress: @escaping @Sendable (ZooProgress) -> Void = { _ in }
    ) async throws -> ZooPullPlan {
        let folder = folder(of: entry)
        let lock = try ZooFolderLock(folder)
        defer { withExtendedLifetime(lock) {} }
        try folder.recoverStaging()
        try folder.finishRemoval(sparing: entry.files.map(\.path))
        do {
            return try await carryOut(entry, selection, reading, jobs, progress)
        } catch is ZooStale where !reading {
            // A file was not what the receipt says; what has arrived by now counts.
            try folder.recoverStaging()
            return try await carryOut(entry, selection, true, jobs, progress)
        }
    }

    private func carryOut(
        _ entry: ZooEntry, _ selection: ZooSelection?, _ reading: Bool, _ jobs: Int,
        _ progress: @escaping @Sendable (ZooProgress) -> Void
    ) async throws -> ZooPullPlan {
        let folder = folder(of: entry)
        let plan = try plan(entry, selection: selection, reading: reading)
        let targets = try plan.actions.map { try folder.place($0.path) }
        try checkSpace(plan, folder)
        try ZooDisk.makeFolder(folder.stateURL("partial"))
        try await fetch(plan, folder, jobs: max(1, jobs), progress)
        do {
            try folder.stage(plan)
        } catch let stale as ZooStale where reading {
            throw ZooError.wrongBytes(stale.description)
        }
        try folder.commit(plan, targets)
        try folder.delete(plan.deletes.map(\.path))
        try folder.finish(plan)
        return plan
    }

    private func checkSpace(_ plan: ZooPullPlan, _ folder: ZooFolder) throws {
        let links = plan.actions.reduce(Int64(0)) { sum, action in
            if case .link(_, let bytes, _, _, _, _) = action, !folder.sharesBlocks(action) { return sum + bytes }
            return sum
        }
        let needed = plan.bytesToFetch + links
        if needed > 0, let free = ZooDisk.freeBytes(folder.url), free < needed + 16 << 20 {
            throw ZooError.disk("\(folder.url.path): \(needed) bytes are needed, \(free) are free")
        }
    }

    /// Several files at once, largest first.
    private func fetch(
        _ plan: ZooPullPlan, _ folder: ZooFolder, jobs: Int, _ progress: @escaping @Sendable (ZooProgress) -> Void
    ) async throws {
        let orders = plan.actions.compactMap { action -> (ZooFile, [ZooSource])? in
            if case .fetch(let file, let sources, _, _) = action { return (file, sources) }
            return nil
        }
        let counter = ZooCounter(total: orders.reduce(0) { $0 + $1.0.bytes }, tell: progress)
        let (downloader, endpoint) = (self.downloader, catalog.endpoint)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for (number, order) in orders.enumerated() {
                if number >= jobs { _ = try await group.next() }
                group.addTask {
                    try await downloader.fetch(
                        order.0, from: order.1, endpoint: endpoint,
                        into: folder.partialURL(ZooPlanner.partialName(order.0)), received: counter.add)
                }
            }
            try await group.waitForAll()
        }
    }

    // MARK: Removing

    /// What `remove` would do: shared files that another entry needs stay.
    public func planRemoval(_ entry: ZooEntry) throws -> ZooRemovePlan {
        ZooPlanner.remove([entry.id], in: try folder(of: entry).state())
    }

    /// Removes an entry; a kill leaves the old state, or one that the next `pull` or `remove` finishes.
    @discardableResult
    public func remove(_ entry: ZooEntry) throws -> ZooRemovePlan {
        let folder = folder(of: entry)
        let lock = try ZooFolderLock(folder)
        defer { withExtendedLifetime(lock) {} }
        try folder.finishRemoval(sparing: [])
        let plan = try planRemoval(entry)
        if plan.entries.isEmpty { return plan }
        try folder.carryOut(plan)
        return plan
    }

    /// Deletes files that belong to no entry: show `ZooStatus.orphans` first.
    @discardableResult
    public func deleteOrphans(in folder: ZooFolder) throws -> [ZooAction] {
        let lock = try ZooFolderLock(folder)
        defer { withExtendedLifetime(lock) {} }
        let state = try folder.state()
        // Without a receipt nobody has decided what belongs here.
        if state.receipt.entries.isEmpty { return [] }
        let actions = ZooPlanner.prune(state)
        try folder.delete(
            actions.compactMap { action in
                if case .delete(let path, _, _) = action { return path }
                return nil
            })
        return actions
    }
}

/// Adds up what several transfers bring.
private final class ZooCounter: @unchecked Sendable {
    private let lock = NSLock()
    private var arrived: Int64 = 0
    private let total: Int64
    private let tell: @Sendable (ZooProgress) -> Void

    init(total: Int64, tell: @escaping @Sendable (ZooProgress) -> Void) {
        self.total = total
        self.tell = tell
    }

    @Sendable func add(_ bytes: Int64) {
        lock.lock()
        arrived += bytes
        let now = ZooProgress(arrived: arrived, total: total)
        lock.unlock()
        tell(now)
    }
}
