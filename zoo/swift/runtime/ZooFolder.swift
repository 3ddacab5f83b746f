import Foundation

/// An installed folder on disk.
///
///     .zoo/receipt.json        what is installed
///     .zoo/partial/<sha256>    bytes of files that are being fetched, whole or not; survive any kill
///     .zoo/staging/<path>      verified files on their way to their place, for a moment
///     .zoo/removing.json       what is being removed
///     .zoo/removed/<path>      model folders on their way out, for a moment
///     .zoo/lock                who works here holds it
///
/// The `zoo` command uses the same names: either continues what the other began. No symbolic link is followed.
public struct ZooFolder: Hashable, Sendable {
    public let url: URL

    public init(_ url: URL) {
        self.url = url
    }

    var receiptURL: URL { stateURL("receipt.json") }

    func stateURL(_ name: String) -> URL {
        url.appendingPathComponent(ZooPath.stateFolder).appendingPathComponent(name)
    }

    func partialURL(_ name: String) -> URL { stateURL("partial").appendingPathComponent(name) }

    func stagedURL(_ path: String) -> URL { stateURL("staging").appendingPathComponent(path) }

    // MARK: Reading

    /// What lies in the folder, which need not exist.
    ///
    /// A file gets a digest if it has one of `sizes`, those of wanted files: no other can be one of them. What the
    /// receipt says of it is believed unless the file was written after the receipt; with `reading` all bytes are read.
    public func state(sizes: Set<Int64> = [], reading: Bool = false) throws -> ZooFolderState {
        try checkStateFolder()
        var state = try listed()
        state.receipt = try receipt()
        state.partials = try partials()
        let believed = reading ? [:] : try believed(state.receipt)
        for (path, file) in state.files where file.isRegular && sizes.contains(file.bytes) {
            if let known = believed[path], known.bytes == file.bytes {
                state.files[path]?.sha256 = known.sha256
            } else {
                state.files[path]?.sha256 = try ZooDisk.digest(url.appendingPathComponent(path))
            }
        }
        return state
    }

    /// The receipt; an empty one if nothing is installed here.
    public func receipt() throws -> ZooReceipt {
        guard let data = try? Data(contentsOf: receiptURL) else {
            if ZooDisk.kind(of: receiptURL) != nil { throw ZooError.disk("\(receiptURL.path): cannot be read") }
            return ZooReceipt()
        }
        return try ZooReceipt.decode(data)
    }

    /// What the receipt says of files that nobody has written to since.
    private func believed(_ receipt: ZooReceipt) throws -> [String: ZooReceipt.File] {
        guard let written = ZooDisk.modified(receiptURL) else { return [:] }
        var found: [String: ZooReceipt.File] = [:]
        for file in receipt.entries.values.flatMap(\.files) where file.sha256 != nil {
            if let changed = ZooDisk.modified(url.appendingPathComponent(file.path)), changed <= written {
                found[file.path] = file
            }
        }
        return found
    }

    private func partials() throws -> [String: Int64] {
        let place = stateURL("partial")
        var found: [String: Int64] = [:]
        for name in try ZooDisk.names(in: place) where !ZooArriving.suffixes.contains(where: { name.hasSuffix($0) }) {
            let partial = place.appendingPathComponent(name)
            if case .file(let bytes) = ZooDisk.kind(of: partial) {
                found[name] = min(bytes, ZooArriving.front(beside: partial) ?? bytes)
            }
        }
        return found
    }

    /// Files without digests, and folders. What file managers leave behind is not worth a word.
    func listed(under start: String = "") throws -> ZooFolderState {
        var state = ZooFolderState()
        var pending = [start]
        while let folder = pending.popLast() {
            let place = folder.isEmpty ? url : url.appendingPathComponent(folder)
            for name in try ZooDisk.names(in: place) {
                if ZooFolder.notOurs.contains(name) || name.hasPrefix("._") { continue }
                if folder.isEmpty && name == ZooPath.stateFolder { continue }
                let path = folder.isEmpty ? name : folder + "/" + name
                switch ZooDisk.kind(of: place.appendingPathComponent(name)) {
                case .file(let bytes): state.files[path] = ZooFolderFile(bytes: bytes)
                case .folder:
                    state.folders.insert(path)
                    pending.append(path)
                case .other: state.files[path] = ZooFolderFile(bytes: 0, isRegular: false)
                case nil: continue
                }
            }
        }
        return state
    }

    private static let notOurs: Set<String> = [".DS_Store", ".localized", "Thumbs.db", "desktop.ini"]

    // MARK: Safety

    /// Where a path lies, provided no folder on the way is a symbolic link.
    func place(_ path: String) throws -> URL {
        try ZooPath.check(path, in: url.path)
        return try found(path)
    }

    /// The same for a path that was found here: an orphan need not have a safe name.
    func found(_ path: String) throws -> URL {
        if ZooPath.parts(of: path).contains("..") { throw ZooError.unsafePath("\(path): leaves the folder") }
        for parent in ZooPath.parents(of: path) where ZooDisk.kind(of: url.appendingPathComponent(parent)) == .other {
            throw ZooError.unsafePath("\(url.path): \(path) leads through the symbolic link \(parent)")
        }
        return url.appendingPathComponent(path)
    }

    /// Refuses a state folder that is a symbolic link: bytes would be written where it leads.
    func checkStateFolder() throws {
        let state = url.appendingPathComponent(ZooPath.stateFolder)
        for place in [state] + ["partial", "staging", "removed"].map(stateURL) where ZooDisk.kind(of: place) == .other {
            throw ZooError.unsafePath("\(place.path): is not a folder; remove it")
        }
    }

    // MARK: Deleting

    /// Deletes files and the folders that are empty then. A model folder of which nothing stays goes by one rename,
    /// so that no half model is ever taken for a whole one.
    func delete(_ paths: [String]) throws {
        try checkStateFolder()
        var units: [String: [String]] = [:]
        for path in paths { units[ZooPath.modelFolder(of: path) ?? path, default: []].append(path) }
        let removed = stateURL("removed")
        for (unit, group) in units.sorted(by: { ZooPath.precedes($0.key, $1.key) }) {
            let whole = try found(unit)
            if ZooDisk.kind(of: whole) == .folder,
                Set(try listed(under: unit).files.keys).isSubset(of: group)
            {
                let away = removed.appendingPathComponent(unit)
                try ZooDisk.makeFolder(away.deletingLastPathComponent())
                try ZooDisk.deleteTree(away)
                try ZooDisk.move(whole, to: away)
                removeEmptyParents(of: unit)
                continue
            }
            for path in group.sorted(by: ZooFolder.goesBefore) {
                try ZooDisk.delete(try found(path))
                removeEmptyParents(of: path)
            }
        }
        try ZooDisk.deleteTree(removed)
    }

    private func removeEmptyParents(of path: String) {
        for parent in ZooPath.parents(of: path) where rmdir(url.appendingPathComponent(parent).path) != 0 { return }
    }

    /// Engines recognise a model folder by these; they are the last to come and the first to go.
    static func isRecognised(by path: String) -> Bool {
        ["coremldata.bin", "Manifest.json"].contains { path.hasSuffix($0) }
    }

    private static func goesBefore(_ one: String, _ other: String) -> Bool {
        if isRecognised(by: one) != isRecognised(by: other) { return isRecognised(by: one) }
        return ZooPath.precedes(one, other)
    }
}

/// The right to change a folder; one holder at a time, also among processes. Given back when it goes away.
final class ZooFolderLock: Sendable {
    private let handle: Int32

    init(_ folder: ZooFolder) throws {
        try folder.checkStateFolder()
        let place = folder.stateURL("lock")
        try ZooDisk.makeFolder(place.deletingLastPathComponent())
        handle = open(place.path, O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
        if handle < 0 { throw ZooDisk.failure("written", place) }
        if flock(handle, LOCK_EX | LOCK_NB) != 0 {
            close(handle)
            throw ZooError.busy("\(folder.url.path): somebody else works there; try again when it is done")
        }
    }

    deinit { close(handle) }
}

/// What is asked of the file system. Nothing follows a symbolic link but `names` and `duplicate`, whose callers look.
enum ZooDisk {
    enum Kind: Equatable {
        case file(Int64)
        case folder
        /// A symbolic link, a socket, a device.
        case other
    }

    static func kind(of url: URL) -> Kind? {
        guard let found = try? FileManager.default.attributesOfItem(atPath: url.path) else { return nil }
        switch found[.type] as? FileAttributeType {
        case .typeRegular?: return .file((found[.size] as? NSNumber)?.int64Value ?? 0)
        case .typeDirectory?: return .folder
        default: return .other
        }
    }

    static func modified(_ url: URL) -> Date? {
        (try? FileManager.default.attributesOfItem(atPath: url.path))?[.modificationDate] as? Date
    }

    /// None if there is no such folder. One that cannot be read must not be taken for an empty one.
    static func names(in url: URL) throws -> [String] {
        do {
            return try FileManager.default.contentsOfDirectory(atPath: url.path).sorted(by: ZooPath.precedes)
        } catch {
            if kind(of: url) == nil { return [] }
            throw ZooError.disk("\(url.path): cannot be read: \(error.localizedDescription)")
        }
    }

    static func digest(_ url: URL) throws -> String {
        let handle = open(url.path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC)
        if handle < 0 { throw failure("read", url) }
        defer { close(handle) }
        var hasher = ZooSHA256()
        _ = try hasher.update(rest: handle)
        return hasher.hex
    }

    static func makeFolder(_ url: URL) throws {
        do {
            try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
        } catch {
            throw ZooError.disk("\(url.path): cannot be made: \(error.localizedDescription)")
        }
    }

    /// Renames, replacing what is there in one step.
    static func move(_ url: URL, to target: URL) throws {
        if rename(url.path, target.path) != 0 { throw failure("moved to \(target.path)", url) }
    }

    static func delete(_ url: URL) throws {
        if unlink(url.path) != 0 && errno != ENOENT { throw failure("deleted", url) }
    }

    static func deleteTree(_ url: URL) throws {
        if kind(of: url) == nil { return }
        do {
            try FileManager.default.removeItem(at: url)
        } catch {
            throw ZooError.disk("\(url.path): cannot be deleted: \(error.localizedDescription)")
        }
    }

    /// Writes beside, flushes, then replaces: a reader sees the old file or the new one.
    static func write(_ data: Data, to url: URL) throws {
        try makeFolder(url.deletingLastPathComponent())
        let beside = url.deletingLastPathComponent()
            .appendingPathComponent(".\(url.lastPathComponent).\(getpid()).new")
        do {
            try data.write(to: beside)
            let file = try FileHandle(forUpdating: beside)
            try file.synchronize()
            try file.close()
        } catch {
            unlink(beside.path)
            throw ZooError.disk("\(url.path): cannot be written: \(error.localizedDescription)")
        }
        chmod(beside.path, 0o644)
        try move(beside, to: url)
    }

    /// Gives `target` the bytes of `url`: a clone on APFS, else a hard link for bulk data that nobody edits, else a
    /// copy.
    static func duplicate(_ url: URL, to target: URL, bulk: Bool) throws {
        try makeFolder(target.deletingLastPathComponent())
        do {
            #if !canImport(Darwin)
            if bulk, (try? FileManager.default.linkItem(at: url, to: target)) != nil { return }
            #endif
            try FileManager.default.copyItem(at: url, to: target)
        } catch {
            throw ZooError.disk("\(target.path): cannot be made: \(error.localizedDescription)")
        }
    }

    /// Bytes that may still be written on the disk that holds `url` or will hold it.
    static func freeBytes(_ url: URL) -> Int64? {
        var place = url
        while kind(of: place) == nil, place.path != "/" { place = place.deletingLastPathComponent() }
        let found = try? FileManager.default.attributesOfFileSystem(forPath: place.path)
        return (found?[.systemFreeSize] as? NSNumber)?.int64Value
    }

    static func failure(_ what: String, _ url: URL) -> ZooError {
        .disk("\(url.path): cannot be \(what): \(String(cString: strerror(errno)))")
    }
}
