import Foundation

/// A file whose bytes arrive: appended under `.zoo/partial`, hashed as they pass, kept whatever happens.
///
/// Used by one request at a time, and between requests by the task that makes them.
final class ZooArriving: @unchecked Sendable {
    private static let etagSuffix = ".etag"
    private static let rangesSuffix = ".ranges"
    /// What may lie beside a partial file.
    static let suffixes = [etagSuffix, rangesSuffix, rangesSuffix + ".new"]

    let url: URL
    private let expected: Int64
    private let file: FileHandle
    private var hasher = ZooSHA256()
    /// Bytes that are on disk and in the hash.
    private(set) var count: Int64 = 0

    /// Reads what an earlier fetch left, because the state of a hash cannot be saved.
    init(_ url: URL, expected: Int64) throws {
        self.url = url
        self.expected = expected
        // A file with another name, too, would be written through: start a new one.
        let found = try? FileManager.default.attributesOfItem(atPath: url.path)
        let names = (found?[.referenceCount] as? NSNumber)?.intValue ?? 1
        if found != nil, names > 1 || (found?[.type] as? FileAttributeType) != .typeRegular { try ZooDisk.delete(url) }
        let handle = open(url.path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0o644)
        if handle < 0 { throw ZooDisk.failure("written", url) }
        file = FileHandle(fileDescriptor: handle, closeOnDealloc: true)
        if let front = ZooArriving.front(beside: url) {
            // What lies behind the first hole is given up: this code fetches from the beginning to the end.
            try file.truncate(atOffset: UInt64(front))
            try file.seek(toOffset: 0)
            unlink(ZooArriving.beside(url, ZooArriving.rangesSuffix).path)
        }
        count = try hasher.update(rest: handle)
        if count > expected { try discard() }
    }

    var missing: Int64 { expected - count }

    var hex: String { hasher.hex }

    func append(_ data: Data) throws {
        do {
            try file.write(contentsOf: data)
        } catch {
            try? file.truncate(atOffset: UInt64(count))
            throw ZooError.disk("\(url.path): cannot be written: \(error.localizedDescription); what arrived is kept")
        }
        hasher.update(data)
        count += Int64(data.count)
    }

    /// Starts again from nothing.
    func discard() throws {
        try file.truncate(atOffset: 0)
        try file.seek(toOffset: 0)
        etag = nil
        hasher = ZooSHA256()
        count = 0
    }

    /// The bytes are right: makes sure they outlive a power cut before anything says that they are there.
    func settle() throws {
        try file.synchronize()
        etag = nil
    }

    /// The validator that the server gave with the first bytes, if it is a strong one (RFC 9110, 8.8.3).
    var etag: String? {
        get {
            guard let text = try? String(contentsOf: etagURL, encoding: .utf8), ZooArriving.isStrong(text) else {
                return nil
            }
            return text
        }
        set {
            if let newValue, ZooArriving.isStrong(newValue) {
                if newValue != etag { try? newValue.write(to: etagURL, atomically: true, encoding: .utf8) }
            } else {
                unlink(etagURL.path)
            }
        }
    }

    private var etagURL: URL { ZooArriving.beside(url, ZooArriving.etagSuffix) }

    private static func beside(_ url: URL, _ suffix: String) -> URL {
        url.deletingLastPathComponent().appendingPathComponent(url.lastPathComponent + suffix)
    }

    // MARK: Holes

    /// How many bytes at the beginning of a partial file are there, if the `zoo` command brought later parts, too, and
    /// wrote down which; nil if the file has no holes.
    ///
    /// The record has two slots, written in turn: `sequence size start-end ... checksum`. The newest whole one counts.
    static func front(beside url: URL) -> Int64? {
        guard let data = try? Data(contentsOf: beside(url, rangesSuffix)) else { return nil }
        var newest: (sequence: Int64, front: Int64)?
        for start in stride(from: 0, to: min(data.count, 2 * slot), by: slot) {
            let bytes = data[start..<min(data.count, start + slot)].prefix { $0 != 10 }
            guard let gap = bytes.lastIndex(of: 32) else { continue }
            let line = bytes[bytes.startIndex..<gap]
            guard UInt32(String(decoding: bytes[(gap + 1)...], as: UTF8.self), radix: 16) == checksum(line) else {
                continue
            }
            let words = String(decoding: line, as: UTF8.self).split(separator: " ")
            guard words.count > 1, let sequence = Int64(words[0]), sequence > newest?.sequence ?? -1 else { continue }
            let first = words.dropFirst(2).first?.split(separator: "-").compactMap { Int64($0) } ?? []
            newest = (sequence, first.count == 2 && first[0] == 0 ? first[1] : 0)
        }
        return newest?.front
    }

    private static let slot = 4096

    /// CRC-32 as zip and Ethernet have it.
    private static func checksum(_ bytes: Data) -> UInt32 {
        ~bytes.reduce(~UInt32(0)) { sum, byte in
            (0..<8).reduce(sum ^ UInt32(byte)) { rest, _ in rest >> 1 ^ (rest & 1 == 1 ? 0xedb8_8320 : 0) }
        }
    }

    private static func isStrong(_ text: String) -> Bool {
        let bytes = Array(text.utf8)
        return (3...202).contains(bytes.count) && bytes.first == 34 && bytes.last == 34
            && bytes.dropFirst().dropLast().allSatisfy { $0 != 34 && (33...126).contains($0) }
    }
}
