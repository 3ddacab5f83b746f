import Foundation

/// `.zoo/receipt.json` of a folder: which entries are installed there and which files each owns.
///
/// Written last. An entry that is not in it is not installed, whatever files lie there. The `zoo` command reads and
/// writes the same file.
public struct ZooReceipt: Hashable, Sendable {
    public var entries: [String: Installed]

    public init(entries: [String: Installed] = [:]) {
        self.entries = entries
    }

    /// One installed entry.
    public struct Installed: Hashable, Sendable {
        /// Digest of the lock it was installed from; compare with `entry.lock`.
        public var lock: String
        /// The selection it was installed with.
        public var only: [String]
        public var without: [String]
        /// Every file it owns here, sorted by path.
        public var files: [File]

        public init(lock: String, only: [String] = [], without: [String] = [], files: [File]) {
            self.lock = lock
            self.only = only
            self.without = without
            self.files = files
        }
    }

    /// A file as it was when it was installed.
    public struct File: Hashable, Sendable {
        public var path: String
        public var bytes: Int64
        public var sha256: String?
        /// A second digest that the `zoo` command knows for cheap checks; kept, never made here.
        public var xxh3: String?

        public init(path: String, bytes: Int64, sha256: String? = nil, xxh3: String? = nil) {
            self.path = path
            self.bytes = bytes
            self.sha256 = sha256
            self.xxh3 = xxh3
        }
    }

    /// For every owned path the entries that own it, sorted.
    public var owners: [String: [String]] {
        var owners: [String: [String]] = [:]
        for entry in entries.keys.sorted(by: ZooPath.precedes) {
            for file in entries[entry]?.files ?? [] { owners[file.path, default: []].append(entry) }
        }
        return owners
    }

    /// Owned paths, entry by entry; a shared one comes once.
    var ownedPaths: [String] {
        var seen: Set<String> = []
        return entries.keys.sorted(by: ZooPath.precedes)
            .flatMap { entries[$0]?.files ?? [] }
            .map(\.path)
            .filter { seen.insert($0).inserted }
    }

    public func without(_ entry: String) -> ZooReceipt {
        var copy = self
        copy.entries[entry] = nil
        return copy
    }

    // MARK: The file

    /// The form of the file that this code reads and writes.
    static let schema = 1

    /// Reads a receipt; what it says is checked, for anybody may have written it.
    public static func decode(_ data: Data) throws -> ZooReceipt {
        let stored: Stored
        do {
            stored = try JSONDecoder().decode(Stored.self, from: data)
        } catch {
            throw ZooError.badReceipt("the receipt cannot be read: \(error)")
        }
        guard stored.schema <= schema else {
            throw ZooError.badReceipt("the receipt has form \(stored.schema); this app reads \(schema)")
        }
        var receipt = ZooReceipt()
        for (id, installed) in stored.entries {
            guard ZooReceipt.isHex(installed.lock, 64) else {
                throw ZooError.badReceipt("the receipt of \(id) names no lock")
            }
            let files = try installed.files.map { file in
                try ZooPath.check(file.path, in: "receipt")
                guard file.size >= 0, file.sha256.map({ isHex($0, 64) }) ?? true,
                    file.xxh3.map({ isHex($0, 32) }) ?? true
                else { throw ZooError.badReceipt("the receipt of \(id) is wrong about \(file.path)") }
                return File(path: file.path, bytes: file.size, sha256: file.sha256, xxh3: file.xxh3)
            }
            receipt.entries[id] = Installed(
                lock: installed.lock, only: installed.only ?? [], without: installed.without ?? [], files: files)
        }
        return receipt
    }

    /// The bytes that `zoo` would write: sorted keys, two blanks, a final newline.
    public func encoded() -> Data {
        let entries = self.entries.mapValues { installed -> ZooJSON in
            var table: [String: ZooJSON] = ["lock": .string(installed.lock)]
            if !installed.only.isEmpty { table["only"] = .array(installed.only.map { .string($0) }) }
            if !installed.without.isEmpty { table["without"] = .array(installed.without.map { .string($0) }) }
            table["files"] = .array(
                installed.files.map { file in
                    var row: [String: ZooJSON] = ["path": .string(file.path), "size": .number(file.bytes)]
                    if let sha256 = file.sha256 { row["sha256"] = .string(sha256) }
                    if let xxh3 = file.xxh3 { row["xxh3"] = .string(xxh3) }
                    return .object(row)
                })
            return .object(table)
        }
        let document = ZooJSON.object(["schema": .number(Int64(ZooReceipt.schema)), "entries": .object(entries)])
        return Data((document.text() + "\n").utf8)
    }

    private static func isHex(_ text: String, _ count: Int) -> Bool {
        text.utf8.count == count && text.utf8.allSatisfy { (48...57).contains($0) || (97...102).contains($0) }
    }

    private struct Stored: Decodable {
        struct Entry: Decodable {
            let lock: String
            let only: [String]?
            let without: [String]?
            let files: [Row]
        }
        struct Row: Decodable {
            let path: String
            let size: Int64
            let sha256: String?
            let xxh3: String?
        }
        let schema: Int
        let entries: [String: Entry]
    }
}

/// JSON with sorted keys and two blanks: the same content is the same bytes on every system.
indirect enum ZooJSON {
    case string(String)
    case number(Int64)
    case array([ZooJSON])
    case object([String: ZooJSON])

    func text(indent: String = "") -> String {
        let deeper = indent + "  "
        switch self {
        case .string(let text):
            return ZooJSON.quoted(text)
        case .number(let number):
            return String(number)
        case .array(let items):
            if items.isEmpty { return "[]" }
            return "[\n" + items.map { deeper + $0.text(indent: deeper) }.joined(separator: ",\n") + "\n\(indent)]"
        case .object(let table):
            if table.isEmpty { return "{}" }
            let rows = table.sorted { ZooPath.precedes($0.key, $1.key) }
                .map { deeper + ZooJSON.quoted($0.key) + ": " + $0.value.text(indent: deeper) }
            return "{\n" + rows.joined(separator: ",\n") + "\n\(indent)}"
        }
    }

    static func quoted(_ text: String) -> String {
        var out = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": out += "\\\""
            case "\\": out += "\\\\"
            case "\n": out += "\\n"
            case "\r": out += "\\r"
            case "\t": out += "\\t"
            case "\u{8}": out += "\\b"
            case "\u{c}": out += "\\f"
            case _ where scalar.value < 0x20:
                let hex = String(scalar.value, radix: 16)
                out += "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
            default: out.unicodeScalars.append(scalar)
            }
        }
        return out + "\""
    }
}
