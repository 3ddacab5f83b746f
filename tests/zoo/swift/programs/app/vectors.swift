// Answers planner cases: reads them as JSON from a file, prints one line of JSON per case.
import Foundation

struct Case: Decodable {
    struct Held: Decodable {
        let bytes: Int64
        let sha256: String?
        let regular: Bool
    }
    /// `catalog.json`; without one, the catalog of the case before.
    let catalog: String?
    let entry: String
    let only: [String]
    let without: [String]
    let files: [String: Held]
    let folders: [String]
    let receipt: String
    let partials: [String: Int64]
    let elsewhere: [String: [String]]
    let remove: [String]
    let paths: [String]
    let xxh3: [String: String]
}

func json(_ action: ZooAction) -> [String: Any] {
    switch action {
    case .keep(let path, let bytes, let reason):
        return ["action": "keep", "path": path, "size": bytes, "reason": reason]
    case .delete(let path, let bytes, let reason):
        return ["action": "delete", "path": path, "size": bytes, "reason": reason]
    case .link(let path, let bytes, let sha256, let origin, let inside, let reason):
        return [
            "action": "link", "path": path, "size": bytes, "reason": reason, "sha256": sha256, "origin": origin,
            "inside": inside,
        ]
    case .fetch(let file, let sources, let have, let reason):
        return [
            "action": "fetch", "path": file.path, "size": action.bytes, "reason": reason,
            "sha256": file.sha256 ?? NSNull() as Any, "have": have,
            "sources": sources.map { ["repo": $0.repo, "commit": $0.commit, "path": $0.path] },
        ]
    }
}

func text(_ receipt: ZooReceipt) -> String {
    String(decoding: receipt.encoded(), as: UTF8.self)
}

func outcome(_ body: () throws -> Any) -> Any {
    do {
        return try body()
    } catch ZooError.conflict(let message) {
        return ["error": "conflict", "message": message]
    } catch ZooError.notPublished(let message) {
        return ["error": "not published", "message": message]
    } catch ZooError.badSelection {
        return ["error": "selection"]
    } catch ZooError.unsafePath {
        return ["error": "unsafe"]
    } catch ZooError.badReceipt {
        return ["error": "receipt"]
    } catch {
        return ["error": "\(error)"]
    }
}

func answer(_ asked: Case, _ catalog: ZooCatalog) -> [String: Any] {
    let entry = catalog.entry(asked.entry)!
    var state = ZooFolderState(
        files: asked.files.mapValues { ZooFolderFile(bytes: $0.bytes, sha256: $0.sha256, isRegular: $0.regular) },
        folders: Set(asked.folders), partials: asked.partials)
    let selection = ZooSelection(only: asked.only, without: asked.without)
    let receipt = outcome {
        state.receipt = try ZooReceipt.decode(Data(asked.receipt.utf8))
        return text(state.receipt)
    }
    let pull = outcome {
        let plan = try ZooPlanner.pull(
            entry, selection: selection, siblings: catalog.entries, in: state, elsewhere: asked.elsewhere)
        return [
            "actions": plan.actions.map(json), "replaces": plan.replaces, "orphans": plan.orphans,
            "updates": plan.updatesPartners.mapValues(\.count), "unverifiable": plan.unverifiable,
            "unused": plan.unusedPartials, "bytes": plan.bytesToFetch, "changes": plan.changes,
            "receipt": text(plan.receipt(after: state.receipt, xxh3: asked.xxh3)),
        ]
    }
    let removal = ZooPlanner.remove(asked.remove, in: state)
    let status = outcome {
        let status = try ZooPlanner.status(of: entry, in: state, reading: true)
        return [
            "findings": status.findings.map { [$0.path, $0.problem.rawValue] }, "broken": status.brokenModels,
            "absent": status.mustBeAbsent, "step": "\(status.step)", "orphans": status.orphans,
        ]
    }
    return [
        "receipt": receipt, "pull": pull, "status": status,
        "remove": [
            "entries": removal.entries, "actions": removal.actions.map(json), "receipt": text(removal.receipt),
            "orphans": removal.orphans,
        ],
        "prune": ZooPlanner.prune(state).map(json),
        "paths": asked.paths.map { [ZooPath.reasonUnsafe($0) == nil, ZooPath.modelFolder(of: $0) ?? NSNull()] as [Any] },
    ]
}

func answerCases(in file: String) throws {
    let lines = try String(contentsOfFile: file, encoding: .utf8)
    var catalog = ZooCatalog.compiled
    for line in lines.split(separator: "\n") {
        let asked = try JSONDecoder().decode(Case.self, from: Data(line.utf8))
        if let text = asked.catalog { catalog = try ZooCatalog.decode(Data(text.utf8)) }
        let data = try JSONSerialization.data(withJSONObject: answer(asked, catalog), options: [.sortedKeys])
        print(String(decoding: data, as: UTF8.self))
    }
}
