import Foundation

#if canImport(CryptoKit)
import CryptoKit
#endif

/// SHA-256 of bytes as they stream past: CryptoKit's where there is one, else (on Linux, in tests) the one below.
struct ZooSHA256 {
    #if canImport(CryptoKit)
    private var hasher = SHA256()

    mutating func update(_ bytes: UnsafeRawBufferPointer) { hasher.update(bufferPointer: bytes) }

    /// The digest of everything so far, lower-case hex.
    var hex: String { hasher.finalize().map { ZooSHA256.pair($0) }.joined() }
    #else
    private var hasher = ZooPortableSHA256()

    mutating func update(_ bytes: UnsafeRawBufferPointer) { hasher.update(bytes) }

    /// The digest of everything so far, lower-case hex.
    var hex: String { hasher.digest().map { ZooSHA256.pair($0) }.joined() }
    #endif

    mutating func update(_ data: Data) { data.withUnsafeBytes { update($0) } }

    static func hex(of text: String) -> String {
        var hasher = ZooSHA256()
        hasher.update(Data(text.utf8))
        return hasher.hex
    }

    /// Takes the rest of an open file, and returns how many bytes that was; ends early if the task is cancelled.
    ///
    /// The buffer is used again and again: a `Data` for every piece would stay in memory until somebody drains the
    /// thread's autorelease pool, which may be after gigabytes.
    mutating func update(rest handle: Int32) throws -> Int64 {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 16)
        defer { buffer.deallocate() }
        var count: Int64 = 0
        while true {
            try Task.checkCancellation()
            let got = read(handle, buffer.baseAddress, buffer.count)
            if got < 0 && errno == EINTR { continue }
            if got < 0 { throw ZooError.disk(String(cString: strerror(errno))) }
            if got == 0 { return count }
            update(UnsafeRawBufferPointer(rebasing: buffer[..<got]))
            count += Int64(got)
        }
    }

    private static func pair(_ byte: UInt8) -> String {
        let digits = Array("0123456789abcdef")
        return String([digits[Int(byte >> 4)], digits[Int(byte & 15)]])
    }
}

/// SHA-256 (FIPS 180-4) in plain Swift.
struct ZooPortableSHA256 {
    private var state: [UInt32] = [
        0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19,
    ]
    /// Bytes that do not fill a block yet.
    private var rest: [UInt8] = []
    private var count: UInt64 = 0
    private var schedule = [UInt32](repeating: 0, count: 64)

    mutating func update(_ bytes: UnsafeRawBufferPointer) {
        count += UInt64(bytes.count)
        var start = 0
        if !rest.isEmpty {
            start = min(64 - rest.count, bytes.count)
            rest.append(contentsOf: bytes[..<start])
            if rest.count < 64 { return }
            let block = rest
            block.withUnsafeBytes { compress($0, 0) }
        }
        while start + 64 <= bytes.count {
            compress(bytes, start)
            start += 64
        }
        rest = Array(bytes[start...])
    }

    func digest() -> [UInt8] {
        var last = self
        // A one bit, zeros, and the length in bits, so that the message ends with a block.
        var padding: [UInt8] = [0x80]
        padding += [UInt8](repeating: 0, count: (119 - Int(count % 64)) % 64)
        padding += (0..<8).map { UInt8(truncatingIfNeeded: (count &* 8) >> (56 - 8 * UInt64($0))) }
        padding.withUnsafeBytes { last.update($0) }
        return last.state.flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> (24 - 8 * UInt32($0))) } }
    }

    private mutating func compress(_ block: UnsafeRawBufferPointer, _ start: Int) {
        for i in 0..<16 {
            let at = start + 4 * i
            schedule[i] =
                UInt32(block[at]) << 24 | UInt32(block[at + 1]) << 16 | UInt32(block[at + 2]) << 8
                | UInt32(block[at + 3])
        }
        for i in 16..<64 {
            let early = schedule[i - 15]
            let late = schedule[i - 2]
            let s0 = turn(early, 7) ^ turn(early, 18) ^ (early >> 3)
            let s1 = turn(late, 17) ^ turn(late, 19) ^ (late >> 10)
            schedule[i] = schedule[i - 16] &+ s0 &+ schedule[i - 7] &+ s1
        }
        var (a, b, c, d) = (state[0], state[1], state[2], state[3])
        var (e, f, g, h) = (state[4], state[5], state[6], state[7])
        for i in 0..<64 {
            let s1 = turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)
            let choice = (e & f) ^ (~e & g)
            let t1 = h &+ s1 &+ choice &+ Self.constants[i] &+ schedule[i]
            let s0 = turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)
            let majority = (a & b) ^ (a & c) ^ (b & c)
            (h, g, f, e, d, c, b, a) = (g, f, e, d &+ t1, c, b, a, t1 &+ s0 &+ majority)
        }
        for (i, word) in [a, b, c, d, e, f, g, h].enumerated() { state[i] = state[i] &+ word }
    }

    @inline(__always)
    private func turn(_ word: UInt32, _ bits: UInt32) -> UInt32 { word >> bits | word << (32 - bits) }

    /// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
    private static let constants: [UInt32] = [
        0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
        0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
        0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
        0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
        0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
        0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
        0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
        0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
    ]
}
