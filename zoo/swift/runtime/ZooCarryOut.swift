import Foundation

/// A file has other bytes than the plan was made for.
struct ZooStale: Error, CustomStringConvertible {
    let path: String
    var description: String { "\(path): has changed or is damaged; pull again" }
}

/// What a plan does to a folder, in an order that a kill at any moment does no harm to.
extension ZooFolder {
    // MARK: Pull: stage, commit, finish

    /// Whether the link of this action takes no room of its own.
    func sharesBlocks(_ action: ZooAction) -> Bool {
        #if canImport(Darwin)
        return true  // APFS clones
        #else
        return isBulk(action)
        #endif
    }

    /// Bulk data that nobody edits in place, so that a hard link of it is safe.
    private func isBulk(_ action: ZooAction) -> Bool {
        action.bytes >= 1 << 20 && [".bin", ".npy", ".safetensors"].contains { action.path.hasSuffix($0) }
    }

    /// Puts everything new under `.zoo/staging`; nothing in the folder changes yet.
    func stage(_ plan: ZooPullPlan) throws {
        try ZooDisk.deleteTree(stateURL("staging"))
        var arrived: [String: String] = [:]
        for action in plan.actions {
            guard case .fetch(let file, _, _, _) = action else { continue }
            let staged = stagedURL(file.path)
            try ZooDisk.makeFolder(staged.deletingLastPathComponent())
            try ZooDisk.move(partialURL(ZooPlanner.partialName(file)), to: staged)
            arrived[file.path] = file.sha256 ?? ""
        }
        for action in plan.actions {
            guard case .link(let path, _, let sha256, let origin, let inside, _) = action else { continue }
            // What lies at the origin now may itself be about to be replaced; then what has arrived is not meant.
            let isNew = inside && arrived[origin] == sha256
            let source = isNew ? stagedURL(origin) : inside ? try place(origin) : URL(fileURLWithPath: origin)
            try ZooDisk.duplicate(source, to: stagedURL(path), bulk: isBulk(action))
            if try !isNew && ZooDisk.digest(stagedURL(path)) != sha256 {
                throw ZooStale(path: origin)
            }
            arrived[path] = sha256
        }
    }

    /// Moves what is staged into place: new model folders whole, other files one by one.
    func commit(_ plan: ZooPullPlan, _ targets: [URL]) throws {
        var units: [String: [(String, URL)]] = [:]
        for (action, target) in zip(plan.actions, targets) {
            switch action {
            case .fetch, .link:
                units[ZooPath.modelFolder(of: action.path) ?? action.path, default: []].append((action.path, target))
            case .keep, .delete: continue
            }
        }
        for (unit, files) in units.sorted(by: { ZooPath.precedes($0.key, $1.key) }) {
            let whole = try place(unit)
            try ZooDisk.makeFolder(whole.deletingLastPathComponent())
            if unit != files[0].0, ZooDisk.kind(of: whole) == nil {
                try ZooDisk.move(stagedURL(unit), to: whole)
                continue
            }
            // The file by which engines recognise a model comes last.
            for (path, target) in files.filter({ !ZooFolder.isRecognised(by: $0.0) })
                + files.filter({ ZooFolder.isRecognised(by: $0.0) })
            {
                try ZooDisk.makeFolder(target.deletingLastPathComponent())
                try ZooDisk.move(stagedURL(path), to: target)
            }
        }
    }

    /// Writes the receipt, last of all, and tidies up.
    func finish(_ plan: ZooPullPlan) throws {
        let before = try receipt()
        var xxh3: [String: String] = [:]
        for file in before.entries.values.flatMap(\.files) {
            // Of an unchanged file the second digest is known, whoever installed it.
            guard let known = file.xxh3, let sha256 = file.sha256 else { continue }
            if plan.files.contains(where: { $0.path == file.path && $0.sha256 == sha256 }) { xxh3[file.path] = known }
        }
        let after = plan.receipt(after: before, xxh3: xxh3)
        if after != before { try ZooDisk.write(after.encoded(), to: receiptURL) }
        try ZooDisk.deleteTree(stateURL("staging"))
        for name in plan.unusedPartials {
            for suffix in [""] + ZooArriving.suffixes { try ZooDisk.delete(partialURL(name + suffix)) }
        }
        rmdir(stateURL("partial").path)
    }

    /// Puts back what a killed pull had staged, so that it counts as arrived.
    func recoverStaging() throws {
        try checkStateFolder()
        let staging = ZooFolder(stateURL("staging"))
        let files = try staging.listed().files.filter(\.value.isRegular)
        if !files.isEmpty { try ZooDisk.makeFolder(stateURL("partial")) }
        for path in files.keys {
            let place = staging.url.appendingPathComponent(path)
            try ZooDisk.move(place, to: partialURL(try ZooDisk.digest(place)))
        }
        try ZooDisk.deleteTree(staging.url)
    }

    // MARK: Remove

    /// `.zoo/removing.json`: entries that are being removed, and the files that go with their sizes.
    private struct Removal: Decodable {
        let schema: Int
        let entries: [String]
        let files: [String: Int64]
    }

    /// 1. Writes down what will be deleted. 2. Writes the receipt: from this moment on the entries are not installed.
    /// 3. Deletes. Killed before 2, everything is as it was; after it, whoever comes next finishes.
    func carryOut(_ plan: ZooRemovePlan) throws {
        var going: [String: Int64] = [:]
        for action in plan.actions {
            guard case .delete(let path, let bytes, _) = action else { continue }
            _ = try place(path)
            going[path] = bytes
        }
        let note = ZooJSON.object([
            "schema": .number(1), "entries": .array(plan.entries.map { .string($0) }),
            "files": .object(going.mapValues { .number($0) }),
        ])
        try ZooDisk.write(Data((note.text() + "\n").utf8), to: stateURL("removing.json"))
        try ZooDisk.write(plan.receipt.encoded(), to: receiptURL)
        try delete(Array(going.keys))
        try ZooDisk.delete(stateURL("removing.json"))
    }

    /// Finishes what a killed removal began; files that an entry owns by now, or that are other files by now, stay.
    func finishRemoval(sparing spared: [String]) throws {
        try ZooDisk.deleteTree(stateURL("removed"))
        let note = stateURL("removing.json")
        guard let data = try? Data(contentsOf: note) else { return }
        guard let removal = try? JSONDecoder().decode(Removal.self, from: data), removal.schema == 1 else {
            throw ZooError.badReceipt("\(note.path): cannot be read")
        }
        for path in removal.files.keys { try ZooPath.check(path, in: note.path) }
        let receipt = try receipt()
        if !removal.entries.contains(where: { receipt.entries[$0] != nil }) {
            let needed = Set((Array(receipt.owners.keys) + spared).map(ZooPath.caseKey))
            let found = try listed().files
            try delete(
                removal.files.filter { path, bytes in
                    !needed.contains(ZooPath.caseKey(path)) && found[path]?.isRegular == true
                        && found[path]?.bytes == bytes
                }.map(\.key))
        }
        try ZooDisk.delete(note)
    }
}
