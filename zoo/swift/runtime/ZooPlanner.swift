import Foundation

/// One thing that lies in a folder.
public struct ZooFolderFile: Hashable, Sendable {
    public var bytes: Int64
    /// Digest of the bytes, proven; nil where nobody needed to read them.
    public var sha256: String?
    /// A real file; false for symbolic links, sockets and devices.
    public var isRegular: Bool

    public init(bytes: Int64, sha256: String? = nil, isRegular: Bool = true) {
        self.bytes = bytes
        self.sha256 = sha256
        self.isRegular = isRegular
    }
}

/// Everything a plan needs to know about a folder. `ZooFolder.state` reads it from a disk; a test writes it down.
public struct ZooFolderState: Hashable, Sendable {
    /// By path, without what is in `.zoo`.
    public var files: [String: ZooFolderFile]
    public var folders: Set<String>
    public var receipt: ZooReceipt
    /// Bytes of interrupted fetches, by name (`ZooPlanner.partialName`).
    public var partials: [String: Int64]

    public init(
        files: [String: ZooFolderFile] = [:], folders: Set<String> = [], receipt: ZooReceipt = ZooReceipt(),
        partials: [String: Int64] = [:]
    ) {
        self.files = files
        self.folders = folders
        self.receipt = receipt
        self.partials = partials
    }

    /// Files that no installed entry owns and that are not among `wanted`, sorted.
    public func orphans(wanted: Set<String> = []) -> [String] {
        let owned = Set(receipt.owners.keys)
        return files.keys.filter { !owned.contains($0) && !wanted.contains($0) }.sorted(by: ZooPath.precedes)
    }
}

/// Which components of an entry somebody wants; empty means all of them.
public struct ZooSelection: Hashable, Sendable {
    /// Keep just these modalities or components. Text stays with a modality: an encoder alone answers nothing.
    public var only: [String]
    /// Then leave these out.
    public var without: [String]

    public init(only: [String] = [], without: [String] = []) {
        self.only = only
        self.without = without
    }

    public static let everything = ZooSelection()
    /// The multimodal opt-out.
    public static let textOnly = ZooSelection(only: ["text"])

    public var isEverything: Bool { only.isEmpty && without.isEmpty }
}

/// What is to be done with one path. The bytes of a `link` are on this disk, or will be once another file is there.
public enum ZooAction: Hashable, Sendable {
    case keep(path: String, bytes: Int64, reason: String)
    /// `have` bytes of it lie here from an interrupted fetch. Any of the sources will do, best first.
    case fetch(file: ZooFile, sources: [ZooSource], have: Int64, reason: String)
    /// `inside`: the origin is a path of the same folder; otherwise an absolute path elsewhere on this disk.
    case link(path: String, bytes: Int64, sha256: String, origin: String, inside: Bool, reason: String)
    case delete(path: String, bytes: Int64, reason: String)

    public var path: String {
        switch self {
        case .keep(let path, _, _), .link(let path, _, _, _, _, _), .delete(let path, _, _): return path
        case .fetch(let file, _, _, _): return file.path
        }
    }

    /// For a fetch the bytes that still have to travel.
    public var bytes: Int64 {
        switch self {
        case .keep(_, let bytes, _), .link(_, let bytes, _, _, _, _), .delete(_, let bytes, _): return bytes
        case .fetch(let file, _, let have, _): return file.bytes - have
        }
    }
}

/// What will be done so that a folder holds the selected files of an entry, and nothing of it that is not selected.
public struct ZooPullPlan: Hashable, Sendable {
    public let entry: ZooEntry
    public let selection: ZooSelection
    /// The files that the selection keeps, sorted by path.
    public let files: [ZooFile]
    /// Every wanted file has exactly one: what is kept, what travels (largest first), links; deletions come last.
    public let actions: [ZooAction]
    /// Files that nobody installed and that will be replaced.
    public let replaces: [String]
    /// Files that belong to no entry and stay. The engine may react to them.
    public let orphans: [String]
    /// Shared files that change under other installed entries, by entry: pull those as well.
    public let updatesPartners: [String: [String]]
    /// How many files have no digest yet, so that only their size can be checked.
    public let unverifiable: Int
    /// Interrupted fetches that no entry of this folder asks for any more.
    public let unusedPartials: [String]

    public var bytesToFetch: Int64 {
        actions.reduce(0) { sum, action in
            if case .fetch = action { return sum + action.bytes }
            return sum
        }
    }

    /// Whether anything but the receipt would change.
    public var changes: Bool {
        actions.contains { action in
            if case .keep = action { return false }
            return true
        }
    }

    public var deletes: [ZooAction] {
        actions.filter { action in
            if case .delete = action { return true }
            return false
        }
    }

    /// The receipt once the plan has been carried out. `xxh3` has second digests of unchanged files, by path.
    public func receipt(after before: ZooReceipt, xxh3: [String: String] = [:]) -> ZooReceipt {
        let mine = files.map { file in
            ZooReceipt.File(path: file.path, bytes: file.bytes, sha256: file.sha256, xxh3: xxh3[file.path])
        }
        let now = Dictionary(mine.map { ($0.path, $0) }, uniquingKeysWith: { first, _ in first })
        var after = before.without(entry.id)
        for (partner, installed) in after.entries {
            // Shared files that were updated are the partner's too; it would look damaged otherwise.
            after.entries[partner]?.files = installed.files.map { file in
                guard let new = now[file.path],
                    !ZooPlanner.same(file.bytes, file.sha256, new.bytes, new.sha256)
                else { return file }
                return new
            }
        }
        after.entries[entry.id] = ZooReceipt.Installed(
            lock: entry.lock, only: selection.only, without: selection.without, files: mine)
        return after
    }
}

/// What goes when entries are removed: what they own and no other installed entry does.
public struct ZooRemovePlan: Hashable, Sendable {
    public let entries: [String]
    /// A deletion for every file that goes, a keep for every one that another entry needs.
    public let actions: [ZooAction]
    /// The folder's receipt once it is done.
    public let receipt: ZooReceipt
    /// Files that no entry owns; they stay.
    public let orphans: [String]
}

/// Decides and does nothing: the same answers as the `zoo` command gives for the same folder.
public enum ZooPlanner {
    /// What to do so that the folder holds exactly the selected files of `entry`.
    ///
    /// - Parameters:
    ///   - siblings: the catalog's entries that may share the folder; others are ignored.
    ///   - state: what the folder holds. A file that has the size of a wanted one needs a digest to be kept.
    ///   - elsewhere: absolute paths of files on this disk with proven digests, by digest, best first.
    /// - Throws: `ZooError.conflict`, `.notPublished`, `.badSelection`.
    public static func pull(
        _ entry: ZooEntry, selection: ZooSelection = .everything, siblings: [ZooEntry] = [],
        in state: ZooFolderState, elsewhere: [String: [String]] = [:]
    ) throws -> ZooPullPlan {
        let files = try entry.files(selection).sorted { ZooPath.precedes($0.path, $1.path) }
        let others = siblings.filter { $0.id != entry.id && $0.folder == entry.folder }
        let wanted = Set(files.map(\.path))
        let updates = try partners(of: entry, files: files, others: others, in: state)
        try checkObstacles(files, in: state)
        try checkAbsent(entry, files: files, siblings: siblings, in: state)
        var actions: [ZooAction] = []
        for group in byContent(files) { actions += decide(group, in: state, elsewhere: elsewhere) }
        try checkPublished(actions, of: entry)
        let owned = Set(state.receipt.owners.keys)
        let replaces = actions.filter { action in
            if case .keep = action { return false }
            return state.files[action.path] != nil && !owned.contains(action.path)
        }
        let deletes = deletions(of: entry, wanted: wanted, in: state)
        return ZooPullPlan(
            entry: entry, selection: selection, files: files,
            actions: actions.sorted(by: isBefore) + deletes,
            replaces: replaces.map(\.path),
            orphans: state.orphans(wanted: wanted.union(deletes.map(\.path))),
            updatesPartners: updates,
            unverifiable: files.filter { $0.sha256 == nil }.count,
            unusedPartials: unusedPartials([entry] + others, in: state))
    }

    /// What goes when `entries` are removed; those that are not installed are ignored. No digest is needed.
    public static func remove(_ entries: [String], in state: ZooFolderState) -> ZooRemovePlan {
        let leaving = Set(entries).filter { state.receipt.entries[$0] != nil }.sorted(by: ZooPath.precedes)
        var receipt = state.receipt
        for entry in leaving { receipt = receipt.without(entry) }
        let owners = receipt.owners
        var needed: [String: [String]] = [:]
        for path in receipt.ownedPaths { needed[ZooPath.caseKey(path)] = owners[path] }
        var owned: [String: ZooReceipt.File] = [:]
        for entry in leaving {
            for file in state.receipt.entries[entry]?.files ?? [] { owned[file.path] = file }
        }
        let actions = owned.values.sorted { ZooPath.precedes($0.path, $1.path) }.compactMap { file -> ZooAction? in
            guard let found = state.files[file.path] else { return nil }
            // A path that differs in letter case alone may be the same file on this file system.
            if let owners = needed[ZooPath.caseKey(file.path)] {
                return .keep(
                    path: file.path, bytes: found.bytes, reason: owners.joined(separator: " and ") + " needs it")
            }
            let reason =
                !found.isRegular
                ? "a link is in its place; the link goes"
                : found.bytes == file.bytes ? "no other entry needs it" : "changed since it was installed"
            return .delete(path: file.path, bytes: found.bytes, reason: reason)
        }
        return ZooRemovePlan(entries: leaving, actions: actions, receipt: receipt, orphans: state.orphans())
    }

    /// What may go because no entry owns it: a deletion per orphan, a keep where it may be an owned file itself.
    public static func prune(_ state: ZooFolderState) -> [ZooAction] {
        var owned: [String: String] = [:]
        for path in state.receipt.ownedPaths { owned[ZooPath.caseKey(path)] = path }
        return state.orphans().compactMap { path in
            guard let file = state.files[path] else { return nil }
            if let twin = owned[ZooPath.caseKey(path)], state.files[twin] == nil {
                return .keep(
                    path: path, bytes: file.bytes, reason: "differs from \(twin) in letter case only")
            }
            let reason = file.isRegular ? "no entry owns it" : "no entry owns it; not a regular file"
            return .delete(path: path, bytes: file.bytes, reason: reason)
        }
    }

    /// Under which name the bytes of a file arrive: its digest, or without one a digest of its first source.
    public static func partialName(_ file: ZooFile) -> String {
        if let sha256 = file.sha256 { return sha256 }
        let place = file.sources.first.map { "\($0.repo)\n\($0.commit)\n\($0.path)" } ?? ""
        return "unverified-" + ZooSHA256.hex(of: "\(place)\n\(file.path)")
    }

    // MARK: Deciding

    /// Files with the same bytes together; a file of unknown digest is alone, for a size proves nothing.
    private static func byContent(_ files: [ZooFile]) -> [[ZooFile]] {
        var order: [String] = []
        var groups: [String: [ZooFile]] = [:]
        for file in files {
            let key = file.sha256 ?? "path \(file.path)"
            if groups[key] == nil { order.append(key) }
            groups[key, default: []].append(file)
        }
        return order.compactMap { groups[$0] }
    }

    /// Actions for all paths of one content: the bytes come from one place, the other paths are links to it.
    private static func decide(
        _ group: [ZooFile], in state: ZooFolderState, elsewhere: [String: [String]]
    ) -> [ZooAction] {
        let kept = group.filter { has(state.files[$0.path], $0) }
        var missing = group.filter { !has(state.files[$0.path], $0) }
        var actions = kept.map { file in
            ZooAction.keep(
                path: file.path, bytes: file.bytes,
                reason: file.sha256 == nil ? "size matches; not verified" : "already there")
        }
        guard let first = missing.first else { return actions }
        var origin = kept.first?.path
        if origin == nil, let sha256 = first.sha256 {
            origin = state.files
                .filter { $0.value.isRegular && $0.value.sha256 == sha256 && $0.value.bytes == first.bytes }
                .keys.min(by: ZooPath.precedes)
        }
        if origin == nil {
            missing.removeFirst()
            if let sha256 = first.sha256, let place = elsewhere[sha256]?.first {
                actions.append(
                    .link(
                        path: first.path, bytes: first.bytes, sha256: sha256, origin: place, inside: false,
                        reason: "already on this disk"))
            } else {
                let found = state.partials[partialName(first)] ?? 0
                let have = found <= first.bytes ? found : 0
                let reason = have > 0 ? "interrupted" : state.files[first.path] == nil ? "missing" : "differs"
                actions.append(
                    .fetch(file: first, sources: sources(of: [first] + group), have: have, reason: reason))
            }
            origin = first.path
        }
        for file in missing {
            guard let sha256 = file.sha256, let origin else { continue }  // without a digest it is alone
            actions.append(
                .link(
                    path: file.path, bytes: file.bytes, sha256: sha256, origin: origin, inside: true,
                    reason: "the same bytes as \(origin)"))
        }
        return actions
    }

    private static func has(_ found: ZooFolderFile?, _ file: ZooFile) -> Bool {
        guard let found, found.isRegular, found.bytes == file.bytes else { return false }
        return file.sha256 == nil || found.sha256 == file.sha256
    }

    /// Every place that has the bytes, in the order the files name them.
    private static func sources(of files: [ZooFile]) -> [ZooSource] {
        var seen: Set<ZooSource> = []
        return files.flatMap(\.sources).filter { seen.insert($0).inserted }
    }

    /// Kept files, then what travels with the largest first, then links from elsewhere, then links inside.
    private static func isBefore(_ one: ZooAction, _ other: ZooAction) -> Bool {
        let (rank, otherRank) = (self.rank(one), self.rank(other))
        if rank != otherRank { return rank < otherRank }
        if rank > 0, one.bytes != other.bytes { return one.bytes > other.bytes }
        return ZooPath.precedes(one.path, other.path)
    }

    private static func rank(_ action: ZooAction) -> Int {
        switch action {
        case .keep: return 0
        case .fetch: return 1
        case .link(_, _, _, _, let inside, _): return inside ? 3 : 2
        case .delete: return 4
        }
    }

    private static func deletions(
        of entry: ZooEntry, wanted: Set<String>, in state: ZooFolderState
    ) -> [ZooAction] {
        let others = state.receipt.without(entry.id).owners.keys
        // A path that differs in letter case alone may be the same file on this file system.
        let needed = Set(wanted.map(ZooPath.caseKey)).union(others.map(ZooPath.caseKey))
        let listed = Set(entry.files.map(\.path))
        let forbidden = Set(entry.forbidden(in: state))
        var reasons: [String: String] = [:]
        for path in forbidden { reasons[path] = "must be absent: the app would take it; zoo did not install it" }
        for file in state.receipt.entries[entry.id]?.files ?? [] {
            if forbidden.contains(file.path) {
                reasons[file.path] = "must be absent: the app would take it"
            } else if state.files[file.path] != nil {
                reasons[file.path] = listed.contains(file.path) ? "not selected" : "no longer part of the entry"
            }
        }
        return reasons.sorted { ZooPath.precedes($0.key, $1.key) }.compactMap { path, reason in
            if needed.contains(ZooPath.caseKey(path)) { return nil }
            return .delete(path: path, bytes: state.files[path]?.bytes ?? 0, reason: reason)
        }
    }

    private static func unusedPartials(_ entries: [ZooEntry], in state: ZooFolderState) -> [String] {
        if state.partials.isEmpty { return [] }
        let needed = Set(entries.flatMap(\.files).map(partialName))
        return state.partials.keys.filter { !needed.contains($0) }.sorted(by: ZooPath.precedes)
    }

    // MARK: Refusing

    static func same(_ bytes: Int64, _ sha256: String?, _ otherBytes: Int64, _ otherSha256: String?) -> Bool {
        guard let sha256, let otherSha256 else { return bytes == otherBytes }
        return sha256 == otherSha256
    }

    /// Shared files that change under other installed entries; a conflict if one needs its bytes as they are.
    private static func partners(
        of entry: ZooEntry, files: [ZooFile], others: [ZooEntry], in state: ZooFolderState
    ) throws -> [String: [String]] {
        let wanted = Dictionary(files.map { ($0.path, $0) }, uniquingKeysWith: { first, _ in first })
        var updates: [String: [String]] = [:]
        for partner in state.receipt.entries.keys.sorted(by: ZooPath.precedes) where partner != entry.id {
            let current = others.first { $0.id == partner }?.files ?? []
            let disagree = (state.receipt.entries[partner]?.files ?? []).filter { file in
                guard let new = wanted[file.path] else { return false }
                return !same(file.bytes, file.sha256, new.bytes, new.sha256)
            }
            let stuck = disagree.map(\.path).filter { path in
                guard let new = wanted[path], let now = current.first(where: { $0.path == path }) else { return true }
                return !same(now.bytes, now.sha256, new.bytes, new.sha256)
            }
            if let path = stuck.first {
                throw ZooError.conflict(
                    "\(entry.id) and \(partner), which is installed in the same folder, need different bytes at "
                        + path + more(stuck.count, "other path"))
            }
            if !disagree.isEmpty { updates[partner] = disagree.map(\.path) }
        }
        return updates
    }

    private static func checkObstacles(_ files: [ZooFile], in state: ZooFolderState) throws {
        for file in files {
            if state.folders.contains(file.path) {
                throw ZooError.conflict("\(file.path): a folder is where this file belongs")
            }
            for parent in ZooPath.parents(of: file.path) {
                guard let found = state.files[parent] else { continue }
                let kind = found.isRegular ? "a file" : "a symbolic link"
                throw ZooError.conflict("\(parent): \(kind) is where a folder belongs (\(file.path))")
            }
        }
    }

    /// Refuses two installed entries of which one has what the other must not find.
    private static func checkAbsent(
        _ entry: ZooEntry, files: [ZooFile], siblings: [ZooEntry], in state: ZooFolderState
    ) throws {
        let owners = state.receipt.without(entry.id).owners
        for path in entry.forbidden(in: state) where state.files[path] != nil {
            guard let owner = owners[path]?.first else { continue }
            throw ZooError.conflict(
                "\(entry.id) must not find \(path) in its folder, and \(owner), which is installed there, has it")
        }
        for partner in state.receipt.entries.keys.sorted(by: ZooPath.precedes) where partner != entry.id {
            guard let sibling = siblings.first(where: { $0.id == partner }) else { continue }
            if let unwanted = files.first(where: { sibling.mustBeAbsent($0.path) }) {
                throw ZooError.conflict(
                    "\(partner), which is installed in the same folder, must not find \(unwanted.path) there, and "
                        + "\(entry.id) has it")
            }
        }
    }

    private static func checkPublished(_ actions: [ZooAction], of entry: ZooEntry) throws {
        let nowhere = actions.filter { action in
            guard case .fetch(_, let sources, _, _) = action else { return false }
            return action.bytes > 0 && sources.isEmpty
        }
        if let first = nowhere.first {
            throw ZooError.notPublished(
                "\(entry.id): \(first.path)\(more(nowhere.count, "other file")) cannot be fetched: the lock names no "
                    + "place that has it")
        }
    }

    /// ` and 2 other files` for three of them.
    private static func more(_ count: Int, _ noun: String) -> String {
        count < 2 ? "" : " and \(count - 1) \(noun)\(count == 2 ? "" : "s")"
    }
}

extension ZooEntry {
    /// The components that a selection keeps.
    /// - Throws: `ZooError.badSelection` for a name that is neither a modality nor a component.
    public func components(_ selection: ZooSelection) throws -> [ZooComponent] {
        var chosen = selection.only.isEmpty ? Set(components.map(\.name)) : try names(of: selection.only)
        if selection.only.contains(where: { modalities.contains($0) }) {
            chosen.formUnion(components.filter { $0.modality == "text" }.map(\.name))
        }
        chosen.subtract(try names(of: selection.without))
        return components.filter { chosen.contains($0.name) }
    }

    /// The files that a selection keeps, in path order.
    /// - Throws: `ZooError.badSelection`, also if nothing is left.
    public func files(_ selection: ZooSelection) throws -> [ZooFile] {
        if selection.isEverything { return files }
        let names = Set(try components(selection).map(\.name))
        let chosen = files.filter { names.contains($0.component) }
        if chosen.isEmpty { throw ZooError.badSelection("\(id): the selection leaves no file") }
        return chosen
    }

    private func names(of words: [String]) throws -> Set<String> {
        var found: Set<String> = []
        for word in words {
            if modalities.contains(word) {
                found.formUnion(components.filter { $0.modality == word }.map(\.name))
            } else if components.contains(where: { $0.name == word }) {
                found.insert(word)
            } else {
                throw ZooError.badSelection("no modality or component of \(id) called '\(word)'")
            }
        }
        return found
    }
}
