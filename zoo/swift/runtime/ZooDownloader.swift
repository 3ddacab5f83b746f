import Foundation

#if canImport(FoundationNetworking)
import FoundationNetworking
#endif

/// Brings files from a Hub: continued by `Range` where an earlier fetch ended, hashed while they stream, tried again
/// after a broken connection, and never believed without their digest.
///
/// It works while the app does. For transfers that go on in the background, hand `plan.actions` to a background
/// `URLSession` and put the finished files under their `ZooPlanner.partialName` in `.zoo/partial`; the next `pull`
/// takes them from there.
public final class ZooDownloader: Sendable {
    private let session: URLSession
    private let transfers = ZooTransfers()
    private let token: String?
    private let attempts: Int

    /// - Parameters:
    ///   - token: for gated repos; sent to the Hub's own host only.
    ///   - attempts: tries in a row without a new byte.
    public init(
        token: String? = nil, attempts: Int = 6, configuration: URLSessionConfiguration = .ephemeral
    ) {
        let queue = OperationQueue()
        queue.maxConcurrentOperationCount = 1
        session = URLSession(configuration: configuration, delegate: transfers, delegateQueue: queue)
        self.token = token
        self.attempts = max(1, attempts)
    }

    deinit { session.finishTasksAndInvalidate() }

    /// Returns when `place` has the bytes of `file`, verified and flushed to disk. What arrived stays there after any
    /// error but a wrong digest. `received` is told about bytes, also those that were there; it gets a negative number
    /// when some are thrown away.
    func fetch(
        _ file: ZooFile, from sources: [ZooSource], endpoint: String, into place: URL,
        received: @escaping @Sendable (Int64) -> Void
    ) async throws {
        let arriving = try ZooArriving(place, expected: file.bytes)
        received(arriving.count)
        if try arriving.missing == 0 && isRight(file, arriving, received) { return }
        var problem: ZooError?
        for source in sources {
            guard let url = source.url(endpoint: endpoint) else { continue }
            do {
                try await fetch(file, from: url, arriving, received)
                return
            } catch let error as ZooError {
                // The first place is the one that should have had it.
                problem = problem ?? error
            }
        }
        throw problem ?? ZooError.notPublished("\(file.path): the catalog names no place that has it")
    }

    /// All bytes from one address; once more from the start if they turn out wrong.
    private func fetch(
        _ file: ZooFile, from url: URL, _ arriving: ZooArriving, _ received: @escaping @Sendable (Int64) -> Void
    ) async throws {
        for _ in 0..<2 {
            try await receiveAll(file, from: url, arriving, received)
            if try isRight(file, arriving, received) { return }
        }
        throw ZooError.wrongBytes("\(file.path): other bytes came twice than the catalog says (\(url))")
    }

    private func isRight(
        _ file: ZooFile, _ arriving: ZooArriving, _ received: @Sendable (Int64) -> Void
    ) throws -> Bool {
        if let sha256 = file.sha256, arriving.hex != sha256 {
            received(-arriving.count)
            try arriving.discard()
            return false
        }
        try arriving.settle()
        return true
    }

    private func receiveAll(
        _ file: ZooFile, from url: URL, _ arriving: ZooArriving, _ received: @escaping @Sendable (Int64) -> Void
    ) async throws {
        var failures = 0
        while arriving.missing > 0 {
            let before = arriving.count
            do {
                try await receiveSome(file, from: url, arriving, received)
            } catch let again as ZooTryAgain {
                failures = arriving.count > before ? 1 : failures + 1
                if again.fromStart {
                    received(-arriving.count)
                    try arriving.discard()
                }
                if failures >= attempts { throw ZooError.network(again.message) }
                // Doubled every time, a little random so that many phones do not come at once.
                let wait = again.wait ?? min(0.5 * pow(2, Double(failures - 1)), 20) * Double.random(in: 0.8...1.2)
                try await Task.sleep(nanoseconds: UInt64(wait * 1e9))
            }
        }
    }

    /// One request: as many bytes as it brings.
    private func receiveSome(
        _ file: ZooFile, from url: URL, _ arriving: ZooArriving, _ received: @escaping @Sendable (Int64) -> Void
    ) async throws {
        var request = URLRequest(url: url, cachePolicy: .reloadIgnoringLocalCacheData, timeoutInterval: 30)
        request.setValue("identity", forHTTPHeaderField: "Accept-Encoding")
        if let token { request.setValue("Bearer \(token)", forHTTPHeaderField: "Authorization") }
        if arriving.count > 0 {
            request.setValue("bytes=\(arriving.count)-", forHTTPHeaderField: "Range")
            if let etag = arriving.etag { request.setValue(etag, forHTTPHeaderField: "If-Range") }
        }
        let task = session.dataTask(with: request)
        let transfer = ZooTransfer(file: file, url: url, arriving: arriving, received: received)
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                transfer.continuation = continuation
                transfers.start(transfer, task, cancelled: Task.isCancelled)
            }
        } onCancel: {
            task.cancel()
        }
        if arriving.missing > 0 { throw ZooTryAgain("\(url): ended \(arriving.missing) bytes early") }
    }
}

/// The answer may be another one later.
struct ZooTryAgain: Error {
    let message: String
    /// Seconds the server asks for.
    var wait: Double?
    /// The bytes that are there cannot be continued.
    var fromStart = false

    init(_ message: String, wait: Double? = nil, fromStart: Bool = false) {
        self.message = message
        self.wait = wait
        self.fromStart = fromStart
    }
}

/// One request under way. Touched by the session's queue only, from its start to its end.
final class ZooTransfer: @unchecked Sendable {
    let file: ZooFile
    let url: URL
    let arriving: ZooArriving
    let received: @Sendable (Int64) -> Void
    var continuation: CheckedContinuation<Void, Error>?
    var failure: Error?
    private var answered = false
    /// Bytes at the beginning of the answer that are here already.
    private var skip: Int64 = 0

    init(file: ZooFile, url: URL, arriving: ZooArriving, received: @escaping @Sendable (Int64) -> Void) {
        self.file = file
        self.url = url
        self.arriving = arriving
        self.received = received
    }

    /// Looks at the status and headers, once.
    func look(at response: URLResponse?) throws {
        if answered { return }
        answered = true
        guard let answer = response as? HTTPURLResponse else { throw ZooTryAgain("\(url): no answer") }
        let header = { (name: String) in answer.value(forHTTPHeaderField: name) }
        switch answer.statusCode {
        case 200, 206: break
        case 416: throw ZooTryAgain("\(url): cannot continue at byte \(arriving.count)", wait: 0, fromStart: true)
        case 408, 425, 429, 500...599:
            let wait = header("Retry-After").flatMap(Double.init).map { min(max($0, 0), 300) }
            throw ZooTryAgain("\(url): the Hub answered \(answer.statusCode)", wait: wait)
        case 401, 403: throw ZooError.network("\(url): access is restricted (\(answer.statusCode)); give a token")
        default: throw ZooError.network("\(url): the Hub answered \(answer.statusCode)")
        }
        if header("Content-Type")?.hasPrefix("text/html") == true && !file.path.hasSuffix(".html") {
            throw ZooError.network("\(url): a web page came instead of the file; is there a login page in between?")
        }
        if let encoding = header("Content-Encoding"), encoding != "identity" {
            throw ZooError.network("\(url): came compressed although it was asked for as it is")
        }
        skip = try answer.statusCode == 200
            ? begin(at: 0, total: header("Content-Length"))
            : continued(header("Content-Range") ?? "")
        let etag = header("ETag")
        if skip + arriving.count > 0, file.sha256 == nil, etag == nil || etag != arriving.etag {
            // Without a digest nothing would notice that the two parts are of different files.
            throw ZooTryAgain("\(url): may be another file by now", wait: 0, fromStart: arriving.count > 0)
        }
        arriving.etag = etag
    }

    /// `bytes 100-199/200`: where the answer begins, and the size of the file.
    private func continued(_ range: String) throws -> Int64 {
        let words = range.split(whereSeparator: { " -/".contains($0) })
        guard words.count == 4, words[0] == "bytes", let first = Int64(words[1]), first <= arriving.count else {
            throw ZooTryAgain("\(url): another part came than was asked for", wait: 0, fromStart: true)
        }
        return try begin(at: first, total: words[3] == "*" ? nil : String(words[3]))
    }

    private func begin(at first: Int64, total: String?) throws -> Int64 {
        if let total = total.flatMap(Int64.init), total != file.bytes {
            throw ZooError.wrongBytes("\(file.path): the catalog says \(file.bytes) bytes, the Hub has \(total) (\(url))")
        }
        return arriving.count - first
    }

    func take(_ data: Data) throws {
        let known = min(skip, Int64(data.count))
        skip -= known
        let new = data.dropFirst(Int(known))
        if Int64(new.count) > arriving.missing {
            throw ZooError.wrongBytes("\(file.path): more than \(file.bytes) bytes came (\(url))")
        }
        try arriving.append(new)
        received(Int64(new.count))
    }
}

/// Tells the transfers of one session about their bytes.
final class ZooTransfers: NSObject, URLSessionDataDelegate, @unchecked Sendable {
    private let lock = NSLock()
    private var running: [Int: ZooTransfer] = [:]

    func start(_ transfer: ZooTransfer, _ task: URLSessionDataTask, cancelled: Bool) {
        if cancelled {
            transfer.continuation?.resume(throwing: CancellationError())
            return
        }
        lock.lock()
        running[task.taskIdentifier] = transfer
        lock.unlock()
        task.resume()
    }

    private func transfer(_ task: URLSessionTask, ending: Bool = false) -> ZooTransfer? {
        lock.lock()
        defer { lock.unlock() }
        return ending ? running.removeValue(forKey: task.taskIdentifier) : running[task.taskIdentifier]
    }

    func urlSession(_ session: URLSession, dataTask: URLSessionDataTask, didReceive data: Data) {
        guard let transfer = transfer(dataTask), transfer.failure == nil else { return }
        do {
            try transfer.look(at: dataTask.response)
            try transfer.take(data)
        } catch {
            transfer.failure = error
            dataTask.cancel()
        }
    }

    func urlSession(_ session: URLSession, task: URLSessionTask, didCompleteWithError error: Error?) {
        guard let transfer = transfer(task, ending: true) else { return }
        var failure = transfer.failure
        if failure == nil, let error {
            let cancelled = (error as? URLError)?.code == .cancelled
            failure = cancelled ? CancellationError() : ZooTryAgain("\(transfer.url): \(error.localizedDescription)")
        }
        if failure == nil {
            do { try transfer.look(at: task.response) } catch { failure = error }
        }
        if let failure {
            transfer.continuation?.resume(throwing: failure)
        } else {
            transfer.continuation?.resume()
        }
    }

    /// The Hub redirects to where large files lie: the token stays behind, the range comes along.
    func urlSession(
        _ session: URLSession, task: URLSessionTask, willPerformHTTPRedirection response: HTTPURLResponse,
        newRequest request: URLRequest, completionHandler: @escaping @Sendable (URLRequest?) -> Void
    ) {
        var next = request
        let before = task.originalRequest
        for name in ["Range", "If-Range", "Accept-Encoding"] {
            next.setValue(before?.value(forHTTPHeaderField: name), forHTTPHeaderField: name)
        }
        if next.url?.host != before?.url?.host || next.url?.scheme != before?.url?.scheme {
            next.setValue(nil, forHTTPHeaderField: "Authorization")
        }
        completionHandler(next)
    }
}
