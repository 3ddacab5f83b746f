import Foundation

/// One file that is not as it should be.
public struct ZooFinding: Hashable, Sendable {
    public enum Problem: String, Hashable, Sendable {
        case missing
        case size
        case digest
        /// A link or a folder is in its place.
        case notAFile = "not a file"
    }

    public let path: String
    public let problem: Problem
}

/// How one entry is doing in its folder. Two entries that share a folder have two answers.
public struct ZooStatus: Hashable, Sendable {
    public enum Step: Hashable, Sendable {
        /// Not in the receipt, whatever files lie there.
        case notInstalled
        /// Installed, but files are missing or wrong, or something lies there that must not: pull it again.
        case damaged
        /// As it was installed; the catalog has a newer one.
        case outdated
        case complete
    }

    public let step: Step
    public let findings: [ZooFinding]
    /// Model folders that lack a file or have a wrong one: the engine must not load them.
    public let brokenModels: [String]
    /// Other files that belong to no entry, sorted.
    public let orphans: [String]
    /// Files and model folders that must not lie there while this entry runs, because the engine would take them.
    public let mustBeAbsent: [String]
}

extension ZooPlanner {
    /// Whether an entry is complete, judged by the files it owns and not by those of its neighbours.
    ///
    /// - Parameter reading: true if `state` has digests of all files of the right size; false judges by size alone,
    ///   which is quick and finds what is missing or cut off.
    public static func status(of entry: ZooEntry, in state: ZooFolderState, reading: Bool) throws -> ZooStatus {
        let installed = state.receipt.entries[entry.id]
        let current = installed.map { $0.lock == entry.lock } ?? false
        var expected = installed?.files ?? []
        if let installed, current {
            // The catalog knows best; the receipt may be older than the digests.
            expected = try entry.files(ZooSelection(only: installed.only, without: installed.without)).map {
                ZooReceipt.File(path: $0.path, bytes: $0.bytes, sha256: $0.sha256)
            }
        }
        let findings = judge(expected, in: state, reading: reading)
        let forbidden = entry.forbidden(in: state)
        let good = findings.isEmpty && forbidden.isEmpty
        let step: ZooStatus.Step =
            installed == nil ? .notInstalled : !good ? .damaged : current ? .complete : .outdated
        return ZooStatus(
            step: step, findings: findings, brokenModels: brokenModels(findings),
            orphans: state.orphans(wanted: Set(expected.map(\.path)).union(forbidden)),
            mustBeAbsent: Set(forbidden.map { ZooPath.modelFolder(of: $0) ?? $0 }).sorted(by: ZooPath.precedes))
    }

    /// Compares what should be with what is.
    static func judge(_ expected: [ZooReceipt.File], in state: ZooFolderState, reading: Bool) -> [ZooFinding] {
        expected.sorted { ZooPath.precedes($0.path, $1.path) }.compactMap { file in
            guard let found = state.files[file.path] else {
                return ZooFinding(
                    path: file.path, problem: state.folders.contains(file.path) ? .notAFile : .missing)
            }
            if !found.isRegular { return ZooFinding(path: file.path, problem: .notAFile) }
            if found.bytes != file.bytes { return ZooFinding(path: file.path, problem: .size) }
            if let sha256 = file.sha256, reading, found.sha256 != sha256 {
                return ZooFinding(path: file.path, problem: .digest)
            }
            return nil
        }
    }

    static func brokenModels(_ findings: [ZooFinding]) -> [String] {
        Set(findings.compactMap { ZooPath.modelFolder(of: $0.path) }).sorted(by: ZooPath.precedes)
    }
}

extension ZooEntry {
    /// Whether a path must not lie in the entry's folder, because the engine would take it.
    public func mustBeAbsent(_ path: String) -> Bool {
        let name = ZooPath.withoutModelSuffix(ZooPath.modelFolder(of: path) ?? path)
        return absent.contains { ZooPath.matches($0, name) }
    }

    /// Everything in a folder that must not be there, sorted: files, and model folders without a file, for engines test
    /// some models by their folder alone.
    func forbidden(in state: ZooFolderState) -> [String] {
        if absent.isEmpty { return [] }
        let filled = Set(state.files.keys.compactMap(ZooPath.modelFolder))
        let empty = state.folders.filter { ZooPath.modelFolder(of: $0) == $0 && !filled.contains($0) }
        return (Array(state.files.keys) + empty).filter(mustBeAbsent).sorted(by: ZooPath.precedes)
    }
}
