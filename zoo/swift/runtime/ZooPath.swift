import Foundation

/// What can go wrong, in words for a person.
public enum ZooError: Error, Hashable, Sendable, CustomStringConvertible {
    /// Two entries need different bytes at one path, or something that is not a file is in the way.
    case conflict(String)
    /// Bytes are needed that are published nowhere.
    case notPublished(String)
    /// A name that is neither a modality nor a component, or a selection that leaves nothing.
    case badSelection(String)
    /// A path that could leave the folder, or is not the same file on every file system.
    case unsafePath(String)
    /// A receipt that cannot be read.
    case badReceipt(String)
    /// Bytes arrived or were found that are not what the catalog says.
    case wrongBytes(String)
    /// The Hub refused, or could not be reached after several tries; what has arrived is kept.
    case network(String)
    /// No space, no permission.
    case disk(String)
    /// Somebody else works in the folder.
    case busy(String)

    public var description: String {
        switch self {
        case .conflict(let text), .notPublished(let text), .badSelection(let text), .unsafePath(let text),
            .badReceipt(let text), .wrongBytes(let text), .network(let text), .disk(let text), .busy(let text):
            return text
        }
    }
}

extension ZooError: LocalizedError {
    public var errorDescription: String? { description }
}

/// Paths in a model's folder: relative, with `/`, and the same file on every file system.
///
/// Everything here looks at Unicode scalars. Swift's characters are clusters of them: a `/` before a combining accent
/// is not equal to `/`, and would hide from a check.
enum ZooPath {
    /// The runtime's own state inside a folder; no file of a model may lie there.
    static let stateFolder = ".zoo"
    /// Folders that are one model: all of it or nothing.
    static let modelSuffixes = [".mlpackage", ".mlmodelc"]
    static let longest = 512

    /// The order of Unicode scalars, which is that of UTF-8 bytes: the same on every system and in every language.
    static func precedes(_ one: String, _ other: String) -> Bool {
        one.utf8.lexicographicallyPrecedes(other.utf8)
    }

    static func parts(of path: String) -> [String] {
        path.unicodeScalars.split(separator: "/", omittingEmptySubsequences: false).map { String($0) }
    }

    /// The folders above a path, nearest first.
    static func parents(of path: String) -> [String] {
        var parts = self.parts(of: path)
        var found: [String] = []
        while parts.count > 1 {
            parts.removeLast()
            found.append(parts.joined(separator: "/"))
        }
        return found
    }

    static func name(of path: String) -> String {
        parts(of: path).last ?? path
    }

    /// The outermost `.mlpackage` or `.mlmodelc` folder that a path lies in.
    static func modelFolder(of path: String) -> String? {
        let parts = self.parts(of: path)
        for (depth, part) in parts.enumerated() where modelSuffixes.contains(where: { part.hasSuffix($0) }) {
            return parts[...depth].joined(separator: "/")
        }
        return nil
    }

    /// `chunk1` for `chunk1.mlmodelc`; other paths unchanged.
    static func withoutModelSuffix(_ path: String) -> String {
        for suffix in modelSuffixes where path.hasSuffix(suffix) {
            return String(path.dropLast(suffix.count))
        }
        return path
    }

    /// The same for paths that some file system takes for one because they differ in letter case alone.
    static func caseKey(_ path: String) -> String {
        var key = ""
        for scalar in path.unicodeScalars {
            for upper in scalar.properties.uppercaseMapping.unicodeScalars {
                key += upper.properties.lowercaseMapping
            }
        }
        return key
    }

    /// Whether `pattern` matches the whole of `text`; `*` stands for any characters but `/`.
    static func matches(_ pattern: String, _ text: String) -> Bool {
        let pattern = Array(pattern.unicodeScalars)
        let text = Array(text.unicodeScalars)
        // Where the pattern can be after what was read of the text so far.
        var reached = closure([0], of: pattern)
        for scalar in text {
            var next: Set<Int> = []
            for place in reached where place < pattern.count {
                if pattern[place] == "*" {
                    if scalar != "/" { next.insert(place) }
                } else if pattern[place] == scalar {
                    next.insert(place + 1)
                }
            }
            reached = closure(next, of: pattern)
        }
        return reached.contains(pattern.count)
    }

    private static func closure(_ places: Set<Int>, of pattern: [Unicode.Scalar]) -> Set<Int> {
        var found = places
        for place in places {
            var next = place
            while next < pattern.count, pattern[next] == "*" {
                next += 1
                found.insert(next)
            }
        }
        return found
    }

    /// Throws unless `path` is a safe path in a folder.
    static func check(_ path: String, in place: String) throws {
        if let reason = reasonUnsafe(path) {
            throw ZooError.unsafePath("\(place): path \(path.debugDescription) \(reason)")
        }
    }

    static func reasonUnsafe(_ path: String) -> String? {
        if path.isEmpty { return "is empty" }
        if path.utf8.count > longest { return "is longer than \(longest) bytes" }
        if path.unicodeScalars.first == "/" { return "is absolute" }
        for scalar in path.unicodeScalars {
            switch scalar.properties.generalCategory {
            case .control, .format, .surrogate, .lineSeparator, .paragraphSeparator:
                return "has a control, formatting or surrogate character"
            default:
                break
            }
        }
        let composed = path.precomposedStringWithCanonicalMapping
        if !composed.unicodeScalars.elementsEqual(path.unicodeScalars) {
            return "is not in Unicode normal form C"
        }
        if path.unicodeScalars.contains(where: { "<>:\"\\|?*".unicodeScalars.contains($0) }) {
            return "has a character that not every file system takes"
        }
        let parts = self.parts(of: path)
        for part in parts {
            if let reason = reasonUnsafePart(part) { return reason }
        }
        if caseKey(parts[0]) == stateFolder { return "lies in \(stateFolder)/" }
        return nil
    }

    private static func reasonUnsafePart(_ part: String) -> String? {
        if part.isEmpty { return "has an empty part" }
        if part == "." || part == ".." { return "has a '\(part)' part" }
        if part.unicodeScalars.first == " " || part.unicodeScalars.last == " " || part.unicodeScalars.last == "." {
            return "has a part that starts or ends with a space, or ends with a dot"
        }
        let stem = part.unicodeScalars.split(separator: ".", maxSplits: 1, omittingEmptySubsequences: false)[0]
        if reserved.contains(caseKey(String(stem))) { return "has a part that Windows reserves" }
        return nil
    }

    private static let reserved: Set<String> = {
        var names: Set<String> = ["con", "prn", "aux", "nul"]
        for number in 1...9 {
            names.insert("com\(number)")
            names.insert("lpt\(number)")
        }
        return names
    }()
}
